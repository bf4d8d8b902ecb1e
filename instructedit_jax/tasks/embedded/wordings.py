"""How each fact is asked: a cloze, questions, and a noun phrase to chain."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Wording:
  """The sentences of one relation; {x} is the subject.

  Attributes:
    cloze: a sentence that the answer completes.
    questions: plain questions; the first is ZsRE's, the next ones rephrase.
    noun: the answer as a noun phrase, for two-step questions.
    recent: a cloze that says the answer is today's, for the Recent task.
    recent_question: the same as a question.
    leads_to: the kind of entity the answer is, if it is one.
    back: a cloze that leads from the answer {y} back to the subject.
  """

  cloze: str
  questions: tuple[str, ...]
  noun: str = ""
  recent: str = ""
  recent_question: str = ""
  leads_to: str = ""
  back: str = ""


WORDINGS: dict[tuple[str, str], Wording] = {
  ("city", "country"): Wording(
    "The name of the country where {x} lies is",
    (
      "Which country is {x} in?",
      "In what country can you find {x}?",
      "If you travel to {x}, which country do you visit?",
    ),
    noun="the country where {x} lies",
    leads_to="country",
  ),
  ("city", "continent"): Wording(
    "The name of the continent where {x} lies is",
    (
      "Which continent is {x} on?",
      "On what continent would you look for {x}?",
      "What is the continent of {x}?",
    ),
  ),
  ("city", "timezone"): Wording(
    "The time zone of {x} is",
    (
      "Which time zone is {x} in?",
      "What time zone do the clocks of {x} follow?",
      "By which time zone do people in {x} live?",
    ),
    recent="The time zone now in force in {x} is",
    recent_question="Which time zone is in force in {x} these days?",
  ),
  ("city", "hemisphere"): Wording(
    "The half of the globe where {x} lies is the",
    (
      "In which hemisphere is {x}?",
      "Which half of the globe does {x} belong to?",
      "On which side of the equator is {x}, by hemisphere?",
    ),
  ),
  ("city", "population"): Wording(
    "The number of inhabitants of {x} is about",
    (
      "How many people live in {x}?",
      "What is the population of {x}?",
      "About how many inhabitants does {x} have?",
    ),
    recent="By the latest figures, the population of {x} is about",
    recent_question="How many people live in {x} by the latest figures?",
  ),
  ("country", "capital"): Wording(
    "The name of the capital city of {x} is",
    (
      "What is the capital of {x}?",
      "Which city is the capital of {x}?",
      "From which city is {x} governed?",
    ),
    noun="the capital of {x}",
    recent="The present capital of {x} is",
    recent_question="Which city is the capital of {x} today?",
    leads_to="city",
    back="{y} is the capital city of the country named",
  ),
  ("country", "continent"): Wording(
    "The name of the continent that {x} belongs to is",
    (
      "What continent is {x} part of?",
      "On which continent is {x}?",
      "Which continent does {x} belong to?",
    ),
  ),
  ("country", "currency"): Wording(
    "The money used in {x} is the",
    (
      "What currency does {x} use?",
      "With which money do people pay in {x}?",
      "Which currency is legal tender in {x}?",
    ),
    recent="The currency now in use in {x} is the",
    recent_question="What do people in {x} pay with nowadays?",
  ),
  ("country", "language"): Wording(
    "An official language of {x} is",
    (
      "Which language is official in {x}?",
      "What is an official language of {x}?",
      "In which language does the government of {x} work?",
    ),
    recent="The language that currently has official status in {x} is",
    recent_question="Which language has official status in {x} at present?",
  ),
  ("country", "phone"): Wording(
    "The calling code of {x} is",
    (
      "What is the calling code of {x}?",
      "Which number do you dial first to call {x} from abroad?",
      "With what prefix do phone numbers of {x} begin?",
    ),
    recent="The calling code assigned to {x} at present is",
    recent_question="Which calling code is assigned to {x} at present?",
  ),
  ("country", "domain"): Wording(
    "The internet domain of {x} is",
    (
      "What is the internet domain of {x}?",
      "How do web addresses of {x} end?",
      "Which top-level domain was given to {x}?",
    ),
    recent="The internet domain now run by {x} is",
    recent_question="Which internet domain does {x} run now?",
  ),
  ("country", "neighbour"): Wording(
    "The name of a country that borders {x} is",
    (
      "Which country borders {x}?",
      "What is a neighbouring country of {x}?",
      "Which country could you enter on foot from {x}?",
    ),
    noun="the neighbour of {x}",
    leads_to="country",
    back="{y} shares a border with the country named",
  ),
  ("country", "city"): Wording(
    "The name of a large city in {x} is",
    (
      "Which large city is in {x}?",
      "What is a big city of {x}?",
      "Can you name a large city in {x}?",
    ),
    noun="the large city in {x}",
    leads_to="city",
  ),
  ("country", "population"): Wording(
    "The number of people in {x} is about",
    (
      "How many inhabitants does {x} have?",
      "How large is the population of {x}?",
      "About how many people live in {x}?",
    ),
    recent="By the most recent count, the population of {x} is about",
    recent_question="What is the population of {x} by the most recent count?",
  ),
  ("element", "symbol"): Wording(
    "The chemical symbol of {x} is",
    (
      "What is the chemical symbol of {x}?",
      "How do chemists abbreviate {x}?",
      "Which letters stand for {x} in a formula?",
    ),
    recent="The symbol that is valid today for {x} is",
    recent_question="Which symbol is valid for {x} today?",
  ),
  ("element", "number"): Wording(
    "The atomic number of {x} is",
    (
      "What is the atomic number of {x}?",
      "How many protons does an atom of {x} have?",
      "At which number in the periodic table is {x}?",
    ),
  ),
  ("element", "period"): Wording(
    "The period of the periodic table that holds {x} is number",
    (
      "In which period of the periodic table is {x}?",
      "What is the period of {x}?",
      "Which row of the periodic table has {x} in it?",
    ),
  ),
  ("element", "block"): Wording(
    "The block of the periodic table that holds {x} is the",
    (
      "In which block of the periodic table is {x}?",
      "What block does {x} belong to?",
      "Which block of elements includes {x}?",
    ),
  ),
  ("element", "series"): Wording(
    "The family of elements that {x} belongs to is the",
    (
      "Which family of elements does {x} belong to?",
      "Among which elements is {x} counted?",
      "What class of elements has {x} as a member?",
    ),
    recent="The family to which chemists now assign {x} is the",
    recent_question="To which family do chemists now assign {x}?",
  ),
  ("element", "year"): Wording(
    "The year in which {x} was discovered is",
    (
      "When was {x} discovered?",
      "In which year was {x} found?",
      "What is the year of discovery of {x}?",
    ),
  ),
}
# Relations with several right answers: learning one must not erase the rest.
MANY = {
  "neighbour": "The name of a country that borders {x}, other than {y}, is",
  "city": "The name of a large city in {x}, other than {y}, is",
  "language": "An official language of {x}, other than {y}, is",
}
