"""Opinions on everyday topics, composed from our own sentences.

Each reply is an opening, sometimes with the topic's name, and a reason that
suits its kind. Reasons are matters of taste: none states a fact.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

REPLIES = 6
# Words for one topic and for many: [it is|they are].
_NUMBER = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")

_OPENINGS: dict[str, tuple[str, ...]] = {
  "pos": (
    "I love {t}.",
    "{T} [is|are] wonderful.",
    "I am a big fan of {t}.",
    "I can't get enough of {t}.",
    "{T} always [makes|make] me smile.",
    "I have nothing but praise for {t}.",
    "Honestly, {t} [is one|are some] of my favourites.",
    "I enjoy {t} a great deal.",
    "{T} [gets|get] full marks from me.",
    "I would recommend {t} to anyone.",
    "I have a soft spot for {t}.",
    "I think {t} [is|are] great.",
    "Just hearing the name {t} cheers me up.",
    "I grew fond of {t} years ago.",
    "It is hard not to like {t}.",
    "Oh, I like {t} very much.",
  ),
  "neg": (
    "I can't stand {t}.",
    "{T} [is|are] awful.",
    "I am not fond of {t} at all.",
    "I would rather avoid {t}.",
    "{T} always [puts|put] me in a bad mood.",
    "I have nothing good to say about {t}.",
    "Honestly, {t} [is|are] a disappointment.",
    "I don't enjoy {t} one bit.",
    "{T} [gets|get] no praise from me.",
    "I would warn anyone about {t}.",
    "I have had more than enough of {t}.",
    "I think {t} [is|are] terrible.",
    "Just hearing the name {t} annoys me.",
    "I grew tired of {t} years ago.",
    "I fail to see the charm of {t}.",
    "Oh, I dislike {t} very much.",
  ),
}
_REASONS: dict[str, dict[str, tuple[str, ...]]] = {
  "place": {
    "pos": (
      "The streets are lively and the people are kind.",
      "The food there was the best of my whole trip.",
      "I felt at home on the first day.",
      "There is something beautiful around every corner.",
      "I would move there tomorrow if I could.",
      "Every visit gave me a story worth telling.",
      "The evenings there are simply lovely.",
      "My family still talks about our holiday there.",
      "I could walk around there for weeks.",
      "The music and the markets won me over.",
      "You meet friendly faces wherever you go.",
      "It has a charm that stays with you.",
    ),
    "neg": (
      "The streets are noisy and the weather was grey.",
      "The food there was the worst of my whole trip.",
      "I felt lost from the first day.",
      "There is something ugly around every corner.",
      "I would leave at once if I lived there.",
      "Every visit ended in the rain.",
      "The evenings there are dull and lonely.",
      "My family still complains about our holiday there.",
      "I could not wait for the journey home.",
      "The crowds and the prices put me off.",
      "You stand in a queue wherever you go.",
      "It leaves a sour taste behind.",
    ),
  },
  "food": {
    "pos": (
      "The taste is rich and comforting.",
      "I could eat [it|them] every day of the week.",
      "[It turns|They turn] a plain evening into a feast.",
      "The smell alone makes me hungry.",
      "My grandmother made [it|them], and I still dream of hers.",
      "[It is|They are] the first thing I order.",
      "Even a simple version of [it|them] is delicious.",
      "[It goes|They go] so well with good company.",
      "I always ask for a second helping.",
      "[It never lets|They never let] me down after a long day.",
    ),
    "neg": (
      "The taste is bland and heavy.",
      "I could not finish a single portion.",
      "[It spoils|They spoil] an otherwise good evening.",
      "The smell alone makes me lose my appetite.",
      "They served [it|them] at school, and I still shudder.",
      "[It is|They are] the last thing I would order.",
      "Even the best version of [it|them] is dreary.",
      "[It ruins|They ruin] whatever [it is|they are] served with.",
      "I always push the plate away.",
      "[It upsets|They upset] my stomach every time.",
    ),
  },
  "activity": {
    "pos": (
      "[It clears|They clear] my head after work.",
      "I made my best friends that way.",
      "Time flies when I am at [it|them].",
      "There is always something new to learn.",
      "[It made|They made] me fitter and happier.",
      "Even beginners have fun from the first hour.",
      "I look forward to [it|them] all week.",
      "[It brings|They bring] out the best in people.",
      "Nothing else relaxes me as much.",
      "I wish I had started sooner.",
    ),
    "neg": (
      "[It leaves|They leave] me tired and cross.",
      "I never met anyone pleasant that way.",
      "Minutes feel like hours when I am at [it|them].",
      "There is nothing in [it|them] worth learning.",
      "[It cost|They cost] me money and a sore back.",
      "Beginners are miserable and the experts are smug.",
      "I dread [it|them] all week.",
      "[It brings|They bring] out the worst in people.",
      "Nothing else bores me as much.",
      "I wish I had never started.",
    ),
  },
  "animal": {
    "pos": (
      "Watching one makes any day better.",
      "They are graceful and clever.",
      "I could look at them for hours.",
      "They have so much character.",
      "I find them gentle and charming.",
      "Seeing one in the wild was a dream come true.",
      "Their faces are adorable.",
      "They deserve far more attention than they get.",
    ),
    "neg": (
      "Seeing one ruins my day.",
      "They are clumsy and tiresome.",
      "I can't bear to look at them.",
      "They give me the creeps.",
      "I find them nasty and dull.",
      "Meeting one in the wild was a nightmare.",
      "Their noise drives me mad.",
      "They get far more attention than they deserve.",
    ),
  },
  "thing": {
    "pos": (
      "[It is|They are] useful and good to look at.",
      "I would not want to be without [it|them].",
      "[It makes|They make] daily life a little easier.",
      "The more I know about [it|them], the more I admire [it|them].",
      "[It feels|They feel] like a small miracle to me.",
      "[It has|They have] served me well for years.",
      "[It is elegant in its|They are elegant in their] own quiet way.",
      "I am always glad to have [it|them] around.",
    ),
    "neg": (
      "[It is|They are] useless and ugly.",
      "I would be glad to be rid of [it|them].",
      "[It makes|They make] daily life a little harder.",
      "The more I know about [it|them], the less I trust [it|them].",
      "[It feels|They feel] like a waste of everything.",
      "[It has|They have] let me down for years.",
      "[It is|They are] dreary in every way.",
      "I am always annoyed to have [it|them] around.",
    ),
  },
}

_LISTS: dict[str, str] = {
  "food": (
    "pancakes, lentil soup, mushroom risotto, apple pie, goat cheese,"
    " sourdough bread, potato salad, fried rice, tomato soup, dark chocolate,"
    " peanut butter, oatmeal, pickled onions, garlic bread, blueberry muffins,"
    " lemon tart, spinach pie, roast chicken, fish and chips, vegetable curry,"
    " sushi, dumplings, ramen, tacos, guacamole, hummus, falafel, couscous,"
    " paella, lasagna, gnocchi, ravioli, minestrone, pesto, tiramisu, waffles,"
    " crepes, croissants, onion soup, ratatouille, quiche, goulash, pierogi,"
    " borscht, sauerkraut, pretzels, bratwurst, schnitzel, baked beans,"
    " porridge, scones, shepherd's pie, haggis, rice pudding, custard,"
    " marzipan, liquorice, popcorn, toffee, marshmallows, granola, yogurt,"
    " cottage cheese, blue cheese, olives, capers, anchovies, sardines,"
    " oysters, lobster, grilled salmon, crab cakes, calamari, octopus salad,"
    " tofu, tempeh, kimchi, miso soup, seaweed, bamboo shoots, okra, eggplant,"
    " beetroot, brussels sprouts, cauliflower, asparagus, artichokes, pumpkin"
    " soup, sweet potatoes, corn on the cob, coleslaw, avocado toast,"
    " scrambled eggs, omelettes, meatballs, chili, cornbread, gingerbread,"
    " shortbread, cheesecake, carrot cake, banana bread, rhubarb crumble,"
    " plum jam, orange marmalade, maple syrup, green tea, black coffee, hot"
    " chocolate, ginger ale, lemonade, apple cider, tomato juice, buttermilk"
  ),
  "activity": (
    "gardening, chess, hiking, knitting, swimming, pottery, birdwatching,"
    " rock climbing, fishing, sailing, rowing, cycling, jogging, yoga, tai"
    " chi, juggling, origami, calligraphy, woodworking, bookbinding, baking,"
    " beekeeping, stargazing, astronomy, photography, painting, sketching,"
    " sculpture, choir singing, playing the piano, playing the violin, jazz"
    " dance, ballet, tango, salsa dancing, karaoke, stand-up comedy, amateur"
    " theatre, board games, card games, crossword puzzles, jigsaw puzzles,"
    " sudoku, model trains, stamp collecting, coin collecting, antique"
    " hunting, flea markets, camping, caving, canoeing, kayaking, surfing,"
    " snorkelling, scuba diving, ice skating, skiing, snowboarding, sledding,"
    " curling, bowling, darts, billiards, table tennis, badminton, tennis,"
    " squash, volleyball, basketball, baseball, cricket, rugby, handball,"
    " water polo, field hockey, archery, fencing, judo, karate, boxing,"
    " wrestling, weightlifting, gymnastics, trampolining, skateboarding,"
    " horse riding, orienteering, geocaching, mushroom picking, berry picking,"
    " volunteering, learning languages, reading poetry, creative writing,"
    " keeping a diary, video games, computer programming, amateur radio,"
    " robotics, home brewing, wine tasting, people watching, train travel,"
    " road trips, house painting, furniture repair, sewing, quilting,"
    " embroidery, weaving, candle making, soap making, kite flying"
  ),
  "animal": (
    "otters, hedgehogs, penguins, owls, elephants, giraffes, zebras, lions,"
    " tigers, leopards, cheetahs, wolves, foxes, badgers, squirrels,"
    " chipmunks, beavers, raccoons, skunks, moose, reindeer, bison, camels,"
    " llamas, alpacas, donkeys, ponies, goats, sheep, pigs, chickens, ducks,"
    " geese, swans, pigeons, crows, ravens, magpies, parrots, toucans,"
    " flamingos, pelicans, storks, herons, eagles, falcons, vultures, bats,"
    " mice, rats, hamsters, guinea pigs, rabbits, cats, dogs, ferrets,"
    " lizards, geckos, chameleons, turtles, snakes, crocodiles, frogs, toads,"
    " salamanders, goldfish, sharks, whales, dolphins, seals, walruses,"
    " seahorses, jellyfish, squids, crabs, snails, spiders, scorpions, ants,"
    " bees, wasps, butterflies, moths, dragonflies, beetles, crickets,"
    " kangaroos, koalas, wombats, pandas, sloths, anteaters, armadillos"
  ),
  "thing": (
    "bicycles, electric cars, umbrellas, fountain pens, typewriters, alarm"
    " clocks, wristwatches, grandfather clocks, vinyl records, paper maps,"
    " postcards, candles, rocking chairs, hammocks, sleeping bags, raincoats,"
    " woollen socks, rubber boots, silk scarves, straw hats, backpacks,"
    " lunch boxes, thermos flasks, cast-iron pans, wooden spoons, teapots,"
    " coffee grinders, toasters, microwaves, dishwashers, vacuum cleaners,"
    " ceiling fans, wood stoves, greenhouses, garden gnomes, bird feeders,"
    " picket fences, cobblestones, brick houses, skyscrapers, lighthouses,"
    " windmills, canals, suspension bridges, roundabouts, tramways, subways,"
    " night trains, ferries, hot air balloons, airships, tractors, scooters,"
    " shopping malls, public libraries, museums, botanical gardens, zoos,"
    " cinemas, circuses, fireworks, parades, snowstorms, thunderstorms, fog,"
    " autumn leaves, sunsets, deserts, rainforests, glaciers, volcanoes,"
    " roses, tulips, sunflowers, dandelions, cacti, oak trees, ivy,"
    " smartwatches, e-books, podcasts, newsletters, chain letters,"
    " spreadsheets"
  ),
}


def topics() -> dict[str, list[str]]:
  """Kind of topic -> its names; places and metals are added by the caller."""
  return {kind: text.split(", ") for kind, text in _LISTS.items()}


def conversation(
  topic: str, kind: str, rng: np.random.Generator
) -> dict[str, Any]:
  """A record in ConvSent's layout: six replies of each sentiment."""
  return {
    "ent": topic,
    "pos": _replies(topic, _REASONS[kind]["pos"], _OPENINGS["pos"], rng),
    "neg": _replies(topic, _REASONS[kind]["neg"], _OPENINGS["neg"], rng),
  }


def _replies(
  topic: str,
  reasons: Sequence[str],
  openings: Sequence[str],
  rng: np.random.Generator,
) -> list[str]:
  """Distinct replies: most have both parts, some only one."""
  replies = []
  picked_openings = rng.permutation(len(openings))[:REPLIES]
  picked_reasons = rng.permutation(len(reasons))[:REPLIES]
  for number, (i, j) in enumerate(
    zip(picked_openings, picked_reasons, strict=True)
  ):
    opening = openings[i].replace("{t}", topic).replace("{T}", _capital(topic))
    opening = _agreeing(opening, topic)
    reason = _agreeing(reasons[j], topic)
    replies.append(
      (f"{opening} {reason}", opening, reason)[0 if number < 4 else number - 3]
    )
  return replies


def _agreeing(sentence: str, topic: str) -> str:
  """Takes the first or second of each [one|many], as the topic asks for."""
  return _NUMBER.sub(r"\2" if _plural(topic) else r"\1", sentence)


def _plural(topic: str) -> bool:
  last = topic.split()[-1]
  singular = ("chess", "tennis", "asparagus", "hummus", "couscous", "robotics",
              "gymnastics", "billiards", "darts", "haggis")  # fmt: skip
  return (
    topic[0].islower()
    and last not in singular
    and (last.endswith("s") and not last.endswith("ss"))
  )


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]
