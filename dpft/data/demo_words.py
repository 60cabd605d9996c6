"""The words the demo task is made of. All of it is invented; nothing here was ever said by anyone.

In each list the entries after ``HELD_OUT`` appear in the validation split only, so that a model has to know
what words mean, not only which ones it saw.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HELD_OUT", "SUBJECTS", "VERDICTS", "Subject"]

HELD_OUT = "|"


class Subject(NamedTuple):
    """Something one can review.

    Attributes:
        things: how a text refers to the whole.
        parts: what can be praised or blamed, each with its verb.
        praise: adjectives that praise a part.
        blame: adjectives that blame a part.
    """

    things: tuple[str, ...]
    parts: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace(HELD_OUT, f",{HELD_OUT},").split(",") if word.strip())


_PRAISE = (
    "excellent, lovely, splendid, delightful, superb, impressive, pleasant, brilliant, outstanding, "
    "remarkable, satisfying, admirable, terrific, first-rate, marvellous, great, good, fine "
    "| exquisite, magnificent, stellar, glorious, praiseworthy"
)
_BLAME = (
    "dreadful, awful, shoddy, dismal, disappointing, tedious, poor, mediocre, miserable, appalling, sloppy, "
    "unpleasant, frustrating, lousy, terrible, weak, bad, second-rate "
    "| abysmal, atrocious, wretched, pitiful, woeful"
)


def _subject(things: str, parts: str, praise: str, blame: str) -> Subject:
    """A subject whose own adjectives join the general ones, shown and held out apart."""

    def merged(own: str, general: str) -> tuple[str, ...]:
        (own_shown, _, own_held), (shown, _, held) = own.partition(HELD_OUT), general.partition(HELD_OUT)
        return _words(f"{own_shown}, {shown} {HELD_OUT} {own_held}, {held}")

    return Subject(_words(things), _words(parts), merged(praise, _PRAISE), merged(blame, _BLAME))


SUBJECTS: tuple[Subject, ...] = (
    _subject(
        "this bistro, the noodle bar by the canal, that little bakery, the harbour restaurant, the new café "
        "| the tapas place, the diner off the ring road",
        "the soup was, the salads were, the vegetables were, the desserts were, the bread was, the rice was, "
        "the lunch menu was, the grilled fish was | the risotto was, the pastries were",
        "tasty, fresh, generous, fragrant, well seasoned, tender | mouth-watering, scrumptious",
        "bland, stale, greasy, overcooked, soggy, lukewarm | tasteless, rancid",
    ),
    _subject(
        "this guesthouse, the hotel near the station, our mountain lodge, the seaside hostel, the motel "
        "| the country inn, the rented cottage",
        "the room was, the beds were, the dining hall was, the corridors were, the lobby was, "
        "the bathroom was, the lounge was, the balcony was | the attic was, the spa was",
        "spotless, cosy, quiet, spacious, welcoming, comfortable | restful, immaculate",
        "filthy, noisy, cramped, draughty, mouldy, shabby | dingy, squalid",
    ),
    _subject(
        "this kettle, the wireless headset, my new laptop, the robot vacuum, the budget phone, this camera "
        "| the smart watch, the electric toothbrush",
        "the battery was, the screen was, the hardware was, the buttons were, the switch was, "
        "the casing was, the charger was, the software was | the display was, the motor was",
        "sturdy, reliable, responsive, sleek, durable, well made | rugged, dependable",
        "flimsy, unreliable, sluggish, fiddly, faulty, clumsy | defective, brittle",
    ),
    _subject(
        "this novel, the short story collection, her latest thriller, the travel memoir, that biography "
        "| the fantasy trilogy, the stage play",
        "the plot was, the characters were, the dialogue was, the ending was, the opening chapter was, "
        "the prose was, the middle part was | the love story was, the epilogue was",
        "gripping, moving, witty, vivid, thoughtful, believable | enthralling, poignant",
        "predictable, wooden, rambling, dull, shallow, muddled | turgid, lifeless",
    ),
    _subject(
        "this film, the documentary about bees, the school musical, the detective series, the comedy "
        "| the puppet show, the jazz concert",
        "the acting was, the script was, the music was, the camera work was, the first half was, "
        "the songs were, the performance was, the lead actor was | the choreography was, the finale was",
        "funny, stirring, clever, inventive, touching, electrifying | hilarious, spellbinding",
        "boring, tiresome, clumsy, unfunny, amateurish, forgettable | cringeworthy, insipid",
    ),
    _subject(
        "the night train, this coach company, the island ferry, our charter flight, the airport shuttle "
        "| the cable car, the taxi firm",
        "the journey was, the outward trip was, the service was, the boarding was, the return trip was, "
        "the connection was, the second leg was, the check-in was | the transfer was, the crossing was",
        "punctual, smooth, calm, comfortable, efficient, relaxing | speedy, effortless",
        "late, uncomfortable, chaotic, slow, exhausting, stressful | nightmarish, shambolic",
    ),
    _subject(
        "this garage, the online shop, the corner pharmacy, the plumber we hired, the garden centre "
        "| the dry cleaner, the locksmith",
        "the manager was, the staff were, the apprentice was, the advice was, the man at the counter was, "
        "the phone support was, the owner was, the help desk was | the saleswoman was, the technician was",
        "prompt, fair, helpful, honest, careful, professional | attentive, trustworthy",
        "rude, careless, dishonest, unhelpful, incompetent, evasive | negligent, insolent",
    ),
    _subject(
        "the castle tour, this science museum, the wildlife park, the botanical garden, the pottery class "
        "| the aquarium, the sailing course",
        "the guide was, the demonstration was, the talk was, the programme was, the workshop was, "
        "the tour was, the instructor was, the audio guide was | the lecture was, the introduction was",
        "fascinating, friendly, well organised, lively, informative, charming | enlightening, enchanting",
        "confusing, monotonous, tiring, dreary, badly prepared, unfriendly | incomprehensible, patronising",
    ),
)

VERDICTS: tuple[tuple[str, ...], tuple[str, ...]] = (
    _words(
        "I asked for my money back, we left before the end, I would not go near it again, never again, "
        "my advice is to stay away, it spoiled the whole weekend, I regret every penny I spent, "
        "we complained twice and nobody cared, it went straight into the bin, it was money down the drain, "
        "I have warned all my friends, the children were in tears by noon, I felt cheated, "
        "we could not wait to get out, it was a waste of an afternoon, I have cancelled my order, "
        "it left a sour taste, I was embarrassed to have suggested it, it fell apart within a week, "
        "we went home angry | I want those hours of my life back, I sent it back the same day, "
        "what a let-down, I filed a complaint, I would rather stay at home, we felt robbed"
    ),
    _words(
        "I have already booked again, we stayed until the very end, I would go back tomorrow, "
        "I have told all my friends, it made the whole weekend, worth every penny, I could not stop smiling, "
        "my advice is to go while you can, we are regulars now, the children talked about it for days, "
        "I bought a second one for my sister, it exceeded my hopes, I felt at home at once, "
        "it is now our favourite, we did not want to leave, it was money well spent, I am a convert, "
        "it saved our holiday, they thought of everything, we went home happy "
        "| I cannot wait to return, it deserves all the praise it gets, what a treat, "
        "I have nothing to complain about, it brightened a grey day, hats off to everyone involved"
    ),
)
