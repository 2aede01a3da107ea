"""Slot values of the household corpus: closed sets the tools accept and free text that has to be copied."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable

from templates import TEMPLATES

ROOMS = [
    "kitchen",
    "bedroom",
    "bathroom",
    "living room",
    "dining room",
    "hallway",
    "office",
    "garage",
    "basement",
    "nursery",
    "attic",
    "guest room",
]
DEVICES = [
    "fan",
    "heater",
    "tv",
    "coffee maker",
    "dishwasher",
    "humidifier",
    "air purifier",
    "radio",
    "printer",
    "kettle",
    "dryer",
    "router",
]
COLORS = ["red", "green", "blue", "yellow", "orange", "purple", "pink", "white"]
DOORS = ["front door", "back door", "side door", "garage door", "patio door", "cellar door"]
SCENES = ["movie night", "bedtime", "good morning", "dinner party", "reading", "away", "romantic", "workout"]
MODES = ["quiet", "normal", "turbo"]
SENSORS = ["temperature", "humidity", "air quality", "noise level"]
ZONES = ["lawn", "flower beds", "vegetable garden", "balcony", "greenhouse"]
WEEKDAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
PROGRAMS = ["cotton", "delicates", "wool", "quick", "eco"]

NUMBER_WORDS = {
    1: "one",
    2: "two",
    3: "three",
    4: "four",
    5: "five",
    6: "six",
    7: "seven",
    8: "eight",
    9: "nine",
    10: "ten",
    11: "eleven",
    12: "twelve",
    15: "fifteen",
    20: "twenty",
    30: "thirty",
    40: "forty",
    45: "forty five",
    50: "fifty",
    60: "sixty",
    70: "seventy",
    80: "eighty",
    90: "ninety",
}

ITEMS = """milk, oat milk, eggs, butter, bread, rye bread, flour, brown sugar, salt, black pepper, olive oil, vinegar,
apples, green apples, bananas, lemons, limes, grapes, pears, peaches, cherries, mangoes, avocados, tomatoes, potatoes,
sweet potatoes, onions, red onions, garlic, carrots, celery, spinach, kale, broccoli, cauliflower, zucchini,
mushrooms, bell peppers, cucumbers, lettuce, cabbage, corn, peas, chickpeas, lentils, black beans, rice, pasta,
spaghetti, noodles, couscous, quinoa, oats, cereal, granola, honey, maple syrup, peanut butter, strawberry jam,
marmalade, mustard, ketchup, mayonnaise, soy sauce, hot sauce, coconut milk, yogurt, cream cheese, cheddar,
mozzarella, parmesan, feta, tofu, chicken breast, ground beef, salmon, tuna, shrimp, bacon, sausages, ham, turkey,
dish soap, laundry detergent, sponges, paper towels, toilet paper, trash bags, aluminum foil, batteries, candles,
toothpaste, shampoo, conditioner, hand cream, razors, bandages, dog food, cat litter, bird seed, orange juice, apple
juice, sparkling water, lemonade, green tea, coffee beans, dark chocolate, cookies, crackers, popcorn, almonds,
walnuts, raisins, ice cream, frozen pizza, tortillas, salsa, hummus, olives, pickles, basil, parsley, cilantro,
ginger, cinnamon, vanilla extract, baking powder, yeast, cornstarch, blueberries, raspberries, pineapple, watermelon,
asparagus, radishes, beets, leeks, eggplant, artichokes, rosemary, thyme, oregano, nutmeg, paprika, cumin, sesame
seeds, sunflower oil, cottage cheese, sour cream, whipped cream, light bulbs, duct tape, matches, napkins, sunscreen,
mouthwash, cotton swabs, lip balm, wet wipes, diapers, kombucha, espresso pods, croissants, bagels, muffins, pancake
mix, gelatin, anchovies, scallions, shallots, turnips, parsnips"""

NAMES = """Anna, Ben, Carla, David, Elena, Felix, Grace, Hannah, Igor, Julia, Kevin, Laura, Marco, Nina, Oliver,
Paula, Quentin, Rosa, Simon, Tara, Ursula, Victor, Wendy, Xavier, Yara, Zoe, Ahmed, Bianca, Chloe, Dmitri, Emily,
Fatima, George, Helga, Ivan, Jasmine, Karim, Lena, Mateo, Nadia, Omar, Priya, Rachel, Stefan, Tomas, Usha, Vera,
Walter, Yusuf, Zainab, Aaron, Bridget, Caleb, Daphne, Ethan, Fiona, Gavin, Heidi, Isaac, Joanna, Kyle, Lucia, Miguel,
Naomi, Oscar, Penelope, Ravi, Sofia, Theo, Valerie, William, Ximena, Yolanda, Zachary, Aunt Mary, Uncle Bob, Grandma,
Grandpa, Mom, Dad, Doctor Patel, Mister Jones, Anna Schmidt, Ben Carter, Maria Lopez, John Smith, Kim Lee, Peter
Novak, Linda Brown, Sam Wilson, Alice, Hugo, Ingrid, Jonas, Kirsten, Leon, Matilda, Noah, Olga, Pedro, Ruben, Selma,
Tobias, Vikram, Astrid, Bruno, Cecilia, Dominic, Esther, Francesca, Giulia, Harold, Irene, Jakob, Katarina, Lorenzo,
Margot, Nikolai, Ophelia, Pascal, Renata, Sergio, Tamara, Umberto, Violet, Winston, Yvonne, Zelda, Clara Bauer, Tom
Fisher, Nora Klein"""

TITLES = """Yellow Submarine, Bohemian Rhapsody, Hotel California, Imagine, Purple Rain, Billie Jean, Hey Jude,
Wonderwall, Smooth Operator, Dancing Queen, Africa, Thunderstruck, Clocks, Hallelujah, Jolene, Respect, Superstition,
Roxanne, Zombie, Creep, Yesterday, Let It Be, Lovely Day, Golden Hour, Midnight City, Electric Feel, Ocean Drive,
Paper Planes, Viva La Vida, Sweet Caroline, Take On Me, Blue Monday, Tiny Dancer, Rocket Man, Piano Man, Vienna,
Heroes, Space Oddity, Starman, Changes, Losing My Religion, Under Pressure, Karma Police, Paranoid, Kashmir, Black
Dog, Layla, Wild Horses, Gimme Shelter, Angie, Summertime, Feeling Good, Fly Me To The Moon, My Way, Moon River, La
Vie En Rose, Clair De Lune, Bolero, Four Seasons, Moonlight Sonata, Autumn Leaves, Blue Moon, Stormy Weather, Sunny
Afternoon, Waterloo Sunset, Penny Lane, Eleanor Rigby, Silver Springs, Dreams, Landslide, Rhiannon, Gypsy, Crazy,
Hurt, Iron Sky, Sail Away, Harvest Moon, Heart Of Gold, Old Man, Ripple, Sugar Magnolia, Brown Eyed Girl, Tupelo
Honey, Sunday Morning, Perfect Day, Lust For Life, Fever, Nightcall, Teardrop, Glory Box, Porcelain, Breathe, Digital
Love, Around The World, Juniper Lane, Winter Garden, Crimson Tide, Velvet Morning, Broken Compass, Lighthouse Keeper,
Paper Lanterns, Hollow Bones, Marble Halls, Copper Wire"""

ARTISTS = """Queen, The Eagles, John Lennon, Prince, Michael Jackson, The Beatles, Oasis, Sade, Abba, Toto, Coldplay,
Leonard Cohen, Dolly Parton, Aretha Franklin, Stevie Wonder, The Police, The Cranberries, Radiohead, Bill Withers,
Kygo, Neil Diamond, New Order, Elton John, Billy Joel, David Bowie, Black Sabbath, Led Zeppelin, Eric Clapton, Nina
Simone, Frank Sinatra, Edith Piaf, Debussy, Ravel, Vivaldi, Beethoven, Miles Davis, Billie Holiday, The Kinks,
Fleetwood Mac, Johnny Cash, Neil Young, Grateful Dead, Van Morrison, Lou Reed, Iggy Pop, Massive Attack, Portishead,
Moby, Daft Punk, Bob Dylan, Joni Mitchell, Adele, Rihanna, Beyonce, Drake, Kendrick Lamar, Bruno Mars, Ed Sheeran,
Taylor Swift, Lorde, Arctic Monkeys, Gorillaz, Muse, Blur, Pulp, Tame Impala, Phoenix, Air, Justice, Chopin, Bach,
Mozart, Satie, Brahms, Duke Ellington, Ella Fitzgerald, Louis Armstrong, Chet Baker, Bonobo, Caribou, Khruangbin,
Norah Jones, Diana Krall, Tracy Chapman, Suzanne Vega, Kate Bush, Annie Lennox, Depeche Mode, The Cure, Joy Division,
Talking Heads, Blondie"""

PLACES = """Berlin, Paris, London, Madrid, Rome, Vienna, Prague, Warsaw, Oslo, Helsinki, Dublin, Lisbon, Athens,
Istanbul, Cairo, Nairobi, Lagos, Mumbai, Delhi, Bangkok, Hanoi, Tokyo, Osaka, Seoul, Beijing, Sydney, Melbourne,
Auckland, Toronto, Montreal, Vancouver, Chicago, Boston, Seattle, Denver, Austin, Dallas, Miami, Atlanta, New York,
San Francisco, Los Angeles, Mexico City, Lima, Bogota, Santiago, Buenos Aires, Sao Paulo, Reykjavik, Copenhagen,
Stockholm, Zurich, Geneva, Munich, Hamburg, Cologne, Leipzig, Salzburg, Budapest, Bucharest, Sofia, Zagreb, Ljubljana,
Venice, Naples, Milan, Turin, Florence, Barcelona, Seville, Porto, Edinburgh, Glasgow, Manchester, Bristol, Cardiff,
Brussels, Antwerp, Rotterdam, Utrecht, Phoenix, Portland, Nashville, Memphis, Detroit, Cleveland, Calgary, Ottawa,
Quebec, Kyoto, Jakarta, Manila, Singapore"""

TASK_VERBS = """take out, pick up, check, clean, call about, order, return, pay for, look at, fix, wash, feed, empty,
put away, bring in, cancel, print, sign, renew, iron, pack, charge, organize, measure, polish, sharpen, defrost,
sweep, inspect, label, replace, schedule, mail, unpack, prune"""
TASK_OBJECTS = """the trash, the laundry, the mail, the dog, the cat, the rabbit, the library books, the tax forms,
the passport, the car tires, the insurance papers, the tomatoes, the rose bushes, the school forms, the bicycle, the
smoke detector, the gutters, the freezer, the fish tank, the winter coats, the tickets, the contract, the package, the
rent, the suitcase, the invoice, the vitamins, the medicine, the birthday cake, the concert tickets, the prescription,
the gym bag, the camera, the drill, the lawn chairs, the curtains, the carpet, the silverware, the picture frames, the
kids, the hamster, the turtle, the flower pots, the recycling, the compost, the windshield, the violin, the backpack,
the hiking boots, the tent, the wedding gift, the dry cleaning, the parking permit, the vaccine record, the chimney,
the water filter, the toolbox"""

MESSAGES = """I am running late, dinner is ready, I will be home soon, the package has arrived, we need more time, the
meeting is cancelled, I love you, happy birthday, the keys are under the mat, I found your wallet, see you later, I
missed the bus, the train is delayed, we are out of bread, the kids are asleep, I got the job, the movie starts soon,
bring an umbrella, do not wait for me, I forgot my phone, thanks for the help, the plumber is here, good luck with the
exam, I am stuck in traffic, my flight has landed, the dog ran away, lunch is on the table, the door is open, we won
the game, I am at the airport, the oven is broken, it is snowing here, I left my jacket at your place, call me back,
pick me up, the power is out, the cake turned out great, I fed the cat, the parcel is at the neighbor, we are leaving
now, grandpa feels better, the car is in the shop, save me a seat, the baby is sleeping, I will bring dessert, stay
safe, the doctor said it is fine, tickets are sold out, the boiler works again, I am proud of you, sorry about
yesterday, the garden looks amazing, my battery is almost dead, we ordered pizza, school starts late, the bridge is
closed, I booked the hotel, the soup needs salt, our team lost again, the painter comes on friday, I cannot find the
charger, the elevator is stuck, rehearsal moved to noon, the cabin is booked, the ferry was late, congratulations on
the promotion"""

# Things no tool accepts. They appear in requests that sound like supported ones and have to be declined.
GADGETS = """lawn mower, hedge trimmer, car, bike, boat, treadmill, oven, stove, microwave, toaster, blender, fridge,
freezer, jacuzzi, sauna, pool pump, drone, scooter, motorcycle, telescope, chainsaw, elevator, generator, sewing
machine, projector, fireplace, doorbell, piano, guitar, typewriter, camera, shower, bathtub, toilet, safe, mailbox,
chicken coop, tractor, rocket, submarine, aquarium, alarm system, slow cooker, rice cooker, waffle iron, popcorn
machine, pinball machine, snow blower, leaf blower, pressure washer, wine cooler, ice maker, trampoline, hot tub,
table saw, juicer, espresso machine"""


def held_out(value: str) -> bool:
    """About one value in seven never occurs in training; the value alone decides, so editing a list moves no other."""
    return hashlib.sha256(("value:" + value.lower()).encode()).digest()[0] % 7 == 3


def _split(text: str) -> tuple[list[str], list[str]]:
    values = [" ".join(part.split()) for part in text.split(",")]
    return [v for v in values if not held_out(v)], [v for v in values if held_out(v)]


POOLS = {
    "item": _split(ITEMS),
    "name": _split(NAMES),
    "title": _split(TITLES),
    "artist": _split(ARTISTS),
    "place": _split(PLACES),
    "message": _split(MESSAGES),
    "gadget": _split(GADGETS),
}
VERBS = _split(TASK_VERBS)[0] + _split(TASK_VERBS)[1]
OBJECTS = _split(TASK_OBJECTS)
FREE = {"item", "name", "title", "artist", "place", "message", "task", "gadget"}

ONSETS = (
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr ph pl pr qu sc sh sk sl sm sn sp st str th tr tw y"
)
NUCLEI = "a e i o u a e i o u ai au ea ee ia ie io oa oo ou ue y"
CODAS = "  b ck d f g k l ll m n nd ng nk nt p r rd rk rn rt s sh ss st t tch th v w x y z e es er ing ed"


# Ordinary words for made-up values, so that no word predicts the next one and only copying helps. None of them can end a
# value ("at", "by", "please").
COMMON = [
    "the",
    "a",
    "my",
    "your",
    "it",
    "is",
    "are",
    "was",
    "will",
    "be",
    "home",
    "today",
    "tomorrow",
    "morning",
    "evening",
    "light",
    "lights",
    "room",
    "door",
    "open",
    "close",
    "start",
    "stop",
    "play",
    "call",
    "send",
    "message",
    "text",
    "list",
    "timer",
    "alarm",
    "music",
    "volume",
    "weather",
    "rain",
    "snow",
    "sunny",
    "warm",
    "cold",
    "late",
    "soon",
    "early",
    "here",
    "there",
    "clean",
    "wash",
    "water",
    "house",
    "run",
    "running",
    "get",
    "getting",
    "going",
    "go",
    "make",
    "making",
    "turn",
    "set",
    "tell",
    "remind",
    "need",
    "want",
    "have",
    "has",
    "had",
    "not",
    "never",
    "always",
    "some",
    "any",
    "more",
    "less",
    "half",
    "big",
    "small",
    "old",
    "new",
    "good",
    "great",
    "high",
    "low",
    "up",
    "down",
    "out",
    "back",
    "over",
    "under",
]
COMMON += [word for values in (ROOMS, DEVICES, COLORS, DOORS, SCENES, ZONES, PROGRAMS) for v in values for word in v.split()]
COMMON += [
    word
    for pool, _ in POOLS.values()
    for value in pool
    for word in value.lower().split()
    if word not in {"by", "at", "to", "on", "in", "with", "for", "and", "please", "that"}
]


# Words of the templates, too, and pieces of all of them: every piece that the tokenizer knows has to be copied now and then.
# A value may not end or begin with words that stand around values.
_EDGES = {
    "by",
    "at",
    "to",
    "on",
    "in",
    "with",
    "for",
    "from",
    "of",
    "off",
    "and",
    "that",
    "please",
    "thank",
    "thanks",
    "now",
    "right",
    "away",
    "know",
    "knows",
    "hear",
    "told",
    "say",
    "saying",
    "says",
    "words",
    "song",
    "songs",
    "track",
    "tune",
    "music",
    "room",
}
INSIDE = ["of", "to", "for", "in", "on", "with", "and", "the", "a", "is", "my", "no"]
COMMON += [
    word
    for lines in TEMPLATES.values()
    for line in lines
    for word in re.findall(r"[a-z]+", re.sub(r"\{\w+\}| => .*", " ", line))
    if word not in _EDGES
]

COMMON += [
    "noon",
    "midnight",
    "percent",
    "degrees",
    "minutes",
    "hour",
    "am",
    "pm",
    "evening",
    "weekend",
    *WEEKDAYS,
    *NUMBER_WORDS.values(),
]


COMMON = sorted(set(COMMON))


def pseudo_word(rng: random.Random) -> str:
    """A word nobody has seen: copying has to be learnt as an operation, not value by value."""
    kind = rng.random()
    if kind < 0.15:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8)))
    if kind < 0.55:
        return "".join(_fragment(rng.choice(COMMON), rng) for _ in range(rng.randint(1, 3)))
    return "".join(
        rng.choice(ONSETS.split()) + rng.choice(NUCLEI.split()) + rng.choice(CODAS.split(" "))
        for _ in range(rng.randint(1, 3))
    )


def _fragment(word: str, rng: random.Random) -> str:
    start = rng.randrange(max(1, len(word) - 1))
    return word[start : start + rng.randint(2, 5)]


def _pseudo(kind: str, rng: random.Random) -> str:
    longest = [2, 3, 4, 5, 6] if kind == "message" else [1, 1, 2, 2, 3]
    words = [rng.choice(COMMON) if rng.random() < 0.45 else pseudo_word(rng) for _ in range(rng.choice(longest))]
    if len(words) > 2 and kind in {"title", "message"} and rng.random() < 0.5:
        words[rng.randrange(1, len(words) - 1)] = rng.choice(INSIDE)
    if kind in {"name", "title", "artist", "place"}:
        words = [w.capitalize() for w in words]
    if kind == "task":
        verb = rng.choice(VERBS) if rng.random() < 0.6 else words[0]
        words = [verb, rng.choice(["the", "the", "my", "some"]), *words[-2:]]
    if kind == "message" and rng.random() < 0.7:
        start = rng.choice(["I am", "the", "we are", "my", "please bring", "it is", "you need", "there is"])
        words = [start, *words]
    return " ".join(words)


def free_text(kind: str, rng: random.Random, unseen: bool, pseudo_share: float) -> str:
    """A free-text value: from the held-out side when unseen, else from the training side or made up."""
    if not unseen and rng.random() < pseudo_share:
        return _pseudo(kind, rng)
    if kind == "task":
        return f"{rng.choice(VERBS)} {rng.choice(OBJECTS[1] if unseen else OBJECTS[0])}"
    return rng.choice(POOLS[kind][1] if unseen else POOLS[kind][0])


def _number(value: int, rng: random.Random, share: float = 0.3) -> str:
    return NUMBER_WORDS[value] if value in NUMBER_WORDS and rng.random() < share else str(value)


def _level(rng: random.Random) -> tuple[str, int]:
    value = rng.choice([rng.randint(0, 100), 5 * rng.randint(0, 20), 10 * rng.randint(1, 9)])
    return _number(value, rng) + rng.choice(["%", " percent", " percent", ""]), value


def _temperature(rng: random.Random) -> tuple[str, int]:
    value = rng.randint(12, 30)
    return f"{_number(value, rng)}{rng.choice([' degrees', ' degrees', '', ' degrees celsius'])}", value


def _wash_temperature(rng: random.Random) -> tuple[str, int]:
    value = rng.choice([20, 30, 40, 60, 90])
    return f"{value}{rng.choice([' degrees', ''])}", value


HOURS = [
    ("an hour", 60),
    ("half an hour", 30),
    ("an hour and a half", 90),
    ("a quarter of an hour", 15),
    ("two hours", 120),
    ("2 hours", 120),
    ("three hours", 180),
    ("3 hours", 180),
    ("1 hour", 60),
    ("one hour", 60),
    ("four hours", 240),
    ("4 hours", 240),
    ("a minute", 1),
]


def _duration(rng: random.Random) -> tuple[str, int]:
    if rng.random() < 0.25:
        return rng.choice(HOURS)
    value = rng.choice([rng.randint(2, 120), 5 * rng.randint(1, 12), rng.randint(2, 20)])
    return f"{_number(value, rng)} {rng.choice(['minutes', 'minutes', 'min'])}", value


def _time(rng: random.Random) -> tuple[str, str]:
    hour, minute = rng.randint(0, 23), rng.choice([0, 0, 15, 30, 45, 5 * rng.randint(0, 11), rng.randint(0, 59)])
    value, half, twelve = f"{hour:02d}:{minute:02d}", "am" if hour < 12 else "pm", hour % 12 or 12
    style = rng.random()
    if style < 0.06:
        return rng.choice([("noon", "12:00"), ("midnight", "00:00")])
    if style < 0.3:
        return f"{hour}:{minute:02d}" if hour > 12 else value, value
    if style < 0.42 and (5 <= hour < 12 or 17 <= hour < 22):
        part = "in the morning" if hour < 12 else "in the evening"
        words = rng.choice(
            [
                (f"{_number(twelve, rng, 0.5)} o'clock {part}", 0),
                (f"half past {_number(twelve, rng, 0.5)} {part}", 30),
                (f"quarter past {_number(twelve, rng, 0.5)} {part}", 15),
                (f"{_number(twelve, rng, 0.4)} {part}", 0),
            ]
        )
        return words[0], f"{hour:02d}:{words[1]:02d}"
    gap = rng.choice(["", " ", " "])
    return (f"{twelve}{gap}{half}" if minute == 0 else f"{twelve}:{minute:02d}{gap}{half}"), value


def _alarm_days(rng: random.Random) -> tuple[str, str]:
    day = rng.choice(WEEKDAYS)
    return rng.choice(
        [
            ("tomorrow", "tomorrow"),
            (f"on {day.capitalize()}", day),
            (f"on {day}", day),
            ("every day", "daily"),
            ("daily", "daily"),
            ("on weekdays", "weekdays"),
            ("on weekends", "weekends"),
            ("today", "today"),
        ]
    )


def _forecast_day(rng: random.Random) -> tuple[str, str]:
    day = rng.choice(WEEKDAYS)
    return rng.choice(
        [
            ("today", "today"),
            ("tomorrow", "tomorrow"),
            (f"on {day.capitalize()}", day),
            (f"on {day}", day),
            ("this weekend", "weekend"),
        ]
    )


def _count(rng: random.Random) -> tuple[str, int]:
    if rng.random() < 0.08:
        return rng.choice([("a dozen", 12), ("a couple of", 2)])
    value = rng.choice([rng.randint(2, 12), rng.randint(2, 24)])
    return _number(value, rng, 0.5), value


def _same(values: list[str]) -> Callable[[random.Random], tuple[str, str]]:
    def pick(rng: random.Random) -> tuple[str, str]:
        value = rng.choice(values)
        return value, value

    return pick


def _switch(on: str, off: str) -> Callable[[random.Random], tuple[str, bool]]:
    return lambda rng: rng.choice([(on, True), (off, False)])


# slot in a template -> (argument of the tool, sampler of (words, value))
CLOSED: dict[str, tuple[str, Callable[[random.Random], tuple[str, object]]]] = {
    "room": ("room", _same(ROOMS)),
    "device": ("device", _same(DEVICES)),
    "color": ("color", _same(COLORS)),
    "door": ("door", _same(DOORS)),
    "scene": ("scene", _same(SCENES)),
    "mode": ("mode", _same(MODES)),
    "sensor": ("sensor", _same(SENSORS)),
    "zone": ("zone", _same(ZONES)),
    "program": ("program", _same(PROGRAMS)),
    "level": ("level", _level),
    "position": ("position", _level),
    "temperature": ("temperature", _temperature),
    "degrees": ("temperature", _wash_temperature),
    "minutes": ("minutes", _duration),
    "time": ("time", _time),
    "days": ("days", _alarm_days),
    "day": ("day", _forecast_day),
    "count": ("quantity", _count),
    "onoff": ("on", _switch("on", "off")),
    "lock": ("locked", _switch("lock", "unlock")),
    "locked": ("locked", _switch("locked", "unlocked")),
}
