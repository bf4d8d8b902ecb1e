"""Other wordings of the common relations, as questions and as clozes.

A wording ends with "?" if it is a question. {x} is the subject, or whatever
stands in its place ("the mother of Ada Lovelace").
"""

# The usual cloze of a relation -> its other wordings, the plainest first. All
# are relations of the CounterFact and Recent train files, edits or probes.
WORDINGS: dict[str, tuple[str, ...]] = {
  "The occupation of {x} is": (
    "What is the occupation of {x}?",
    "What does {x} do for a living?",
    "What is {x}'s profession?",
    "{x}'s occupation is",
    "{x}'s profession is",
    "By profession, {x} is",
  ),
  "The gender of {x} is": (
    "What is the gender of {x}?",
    "What gender is {x}?",
    "What is {x}'s sex or gender?",
    "{x}'s gender is",
    "{x} is a person whose gender is",
    "In official papers, the sex of {x} is given as",
  ),
  "The name of the country of citizenship of {x} is": (
    "What is the country of citizenship of {x}?",
    "Which country is {x} a citizen of?",
    "What nationality does {x} hold?",
    "{x} holds the citizenship of",
    "{x} is a citizen of",
    "{x}'s country of citizenship is",
    "The passport of {x} was issued by",
  ),
  "{x} follows": (
    "What does {x} follow?",
    "What came right before {x}?",
    "Which one precedes {x}?",
    "{x} comes right after",
    "{x} was preceded by",
    "The predecessor of {x} is",
  ),
  "{x} is followed by": (
    "What is {x} followed by?",
    "What comes right after {x}?",
    "Which one follows {x}?",
    "The one that comes after {x} is",
    "{x} comes right before",
    "The successor of {x} is",
  ),
  "The name of the employer of {x} is": (
    "What is the name of the employer of {x}?",
    "Who employs {x}?",
    "Where does {x} work?",
    "{x} works for",
    "{x} is employed by",
    "{x}'s employer is",
  ),
  "The place of birth of {x} is": (
    "Where was {x} born?",
    "What is the place of birth of {x}?",
    "In which place was {x} born?",
    "{x} was born in",
    "{x}'s birthplace is",
    "{x} came into the world in",
  ),
  "The place of death of {x} is": (
    "Where did {x} die?",
    "What is the place of death of {x}?",
    "In which place did {x} pass away?",
    "{x} died in",
    "{x}'s place of death is",
    "{x} spent the last moments of life in",
  ),
  "The place of burial of {x} is": (
    "Where is {x} buried?",
    "What is the burial place of {x}?",
    "Where is the grave of {x}?",
    "{x} is buried in",
    "{x}'s grave is in",
  ),
  "The date of birth of {x} is": (
    "When was {x} born?",
    "What is the date of birth of {x}?",
    "On which day was {x} born?",
    "{x} was born on",
    "{x}'s birthday is",
    "{x}'s date of birth is",
  ),
  "The name of the country which {x} is associated with is": (
    "What is the name of the country which {x} is associated with?",
    "Which country is {x} associated with?",
    "Which country does {x} belong to?",
    "{x} is associated with the country of",
    "{x}'s country is",
    "The country that {x} belongs to is",
  ),
  "The name of the author of {x} is": (
    "Who is the author of {x}?",
    "Who wrote {x}?",
    "By whom was {x} written?",
    "{x} was written by",
    "{x}'s author is",
    "The person who wrote {x} is",
  ),
  "The name of the father of {x} is": (
    "Who is the father of {x}?",
    "What is the name of {x}'s father?",
    "Whose son or daughter is {x} on the father's side?",
    "{x}'s father is",
    "{x} was fathered by",
    "The man who is the father of {x} is",
  ),
  "The name of the mother of {x} is": (
    "Who is the mother of {x}?",
    "What is the name of {x}'s mother?",
    "Who gave birth to {x}?",
    "{x}'s mother is",
    "The woman who gave birth to {x} is",
  ),
  "The name of the child of {x} is": (
    "Who is the child of {x}?",
    "What is the name of {x}'s child?",
    "Who has {x} as a parent?",
    "{x}'s child is",
    "{x} is the parent of",
    "{x} has a child named",
  ),
  "The number of children {x} has is": (
    "How many children does {x} have?",
    "What is the number of children of {x}?",
    "{x}'s number of children is",
    "The count of {x}'s children is",
  ),
  "The names of the siblings of {x} are": (
    "Who are the siblings of {x}?",
    "What are the names of {x}'s siblings?",
    "Who is a brother or sister of {x}?",
    "{x}'s siblings are",
    "{x} is a sibling of",
  ),
  "The name of the spouse of {x} is": (
    "Who is the spouse of {x}?",
    "Who is {x} married to?",
    "What is the name of {x}'s husband or wife?",
    "{x} is married to",
    "{x}'s spouse is",
    "The person whom {x} married is",
  ),
  "The name of the position held by {x} is": (
    "What is the position held by {x}?",
    "Which position does {x} hold?",
    "What office does {x} hold?",
    "{x} holds the position of",
    "{x}'s position is",
    "{x} is in office as",
  ),
  "The name of the award {x} won is": (
    "What is the name of the award {x} won?",
    "Which award did {x} win?",
    "What prize was {x} given?",
    "{x} won the award called",
    "{x} was honoured with",
    "{x}'s award is",
  ),
  "The name of the sports team which {x} is a member of is": (
    "What is the name of the sports team which {x} is a member of?",
    "Which team does {x} play for?",
    "Which sports team does {x} belong to?",
    "{x} plays for",
    "{x}'s sports team is",
    "{x} is a member of the team",
  ),
  "The name of the league which {x} plays in is": (
    "What is the name of the league which {x} plays in?",
    "Which league does {x} play in?",
    "In which league does {x} compete?",
    "{x} plays in the league called",
    "{x}'s league is",
    "{x} competes in the",
  ),
  "The name of the field of work of {x} is": (
    "What is the field of work of {x}?",
    "Which field does {x} work in?",
    "What is {x}'s specialty?",
    "{x} works in the field of",
    "{x}'s field of work is",
  ),
  "The name of the alma mater of {x} is": (
    "What is the alma mater of {x}?",
    "Where did {x} study?",
    "Which school or university did {x} attend?",
    "{x} was educated at",
    "{x}'s alma mater is",
    "{x} is a graduate of",
  ),
  "The name of the capital city of {x} is": (
    "What is the capital city of {x}?",
    "Which city is the capital of {x}?",
    "{x}'s capital city is",
    "{x} has its capital in",
    "The city that serves as the capital of {x} is",
  ),
  "The name of the country which {x} is the capital of is": (
    "What is the name of the country which {x} is the capital of?",
    "Which country has {x} as its capital?",
    "{x} is the capital of what country?",
    "{x} is the capital of",
    "{x} is the capital city of the country of",
  ),
  "The names of the cast members of {x} are": (
    "Who are the cast members of {x}?",
    "Who stars in {x}?",
    "Who plays a part in {x}?",
    "{x} stars",
    "{x}'s cast includes",
    "The actors in {x} are",
  ),
  "The name of the ethnic group which {x} is associated with is": (
    "What is the name of the ethnic group which {x} is associated with?",
    "Which ethnic group does {x} belong to?",
    "What is the ethnicity of {x}?",
    "{x}'s ethnic group is",
    "{x} belongs to the ethnic group of the",
  ),
  "The name of the religion which {x} is associated with is": (
    "What is the name of the religion which {x} is associated with?",
    "Which religion does {x} follow?",
    "What is the religion of {x}?",
    "{x}'s religion is",
    "{x} is associated with the religion called",
    "As for religion, {x} is linked to",
  ),
  "The name of the composer of {x} is": (
    "Who is the composer of {x}?",
    "Who composed {x}?",
    "Who wrote the music of {x}?",
    "{x} was composed by",
    "{x}'s composer is",
  ),
  "The name of the director of {x} is": (
    "Who is the director of {x}?",
    "Who directed {x}?",
    "{x} was directed by",
    "{x}'s director is",
    "The person who directed {x} is",
  ),
  "The name of the screenwriter of {x} is": (
    "Who is the screenwriter of {x}?",
    "Who wrote the script of {x}?",
    "{x}'s screenwriter is",
    "The screenplay of {x} was written by",
  ),
  "The name of the architect of {x} is": (
    "Who is the architect of {x}?",
    "Who designed {x}?",
    "{x} was designed by",
    "{x}'s architect is",
  ),
  "The name of the founder of {x} is": (
    "Who is the founder of {x}?",
    "Who founded {x}?",
    "{x} was founded by",
    "{x}'s founder is",
  ),
  "The name of the continent which {x} is part of is": (
    "What is the name of the continent which {x} is part of?",
    "Which continent is {x} part of?",
    "On which continent does {x} lie?",
    "{x} lies on the continent of",
    "{x} is part of the continent of",
    "{x}'s continent is",
  ),
  "The official language of {x} is": (
    "What is the official language of {x}?",
    "Which language is official in {x}?",
    "{x}'s official language is",
    "In {x}, the official language is",
    "Officially, the language used in {x} is",
  ),
  "The name of the currency in {x} is": (
    "What is the name of the currency in {x}?",
    "Which currency is used in {x}?",
    "What do people pay with in {x}?",
    "{x}'s currency is",
    "In {x}, people pay with the",
  ),
  "The name of the anthem of {x} is": (
    "What is the name of the anthem of {x}?",
    "Which song is the anthem of {x}?",
    "{x}'s anthem is",
    "The anthem sung in {x} is",
  ),
  "The name of the head of state of {x} is": (
    "Who is the head of state of {x}?",
    "Who is at the head of the state of {x}?",
    "{x}'s head of state is",
  ),
  "The name of the head of government of {x} is": (
    "Who is the head of government of {x}?",
    "Who leads the government of {x}?",
    "{x}'s head of government is",
  ),
  "The eye color of {x} is": (
    "What is the eye color of {x}?",
    "What color are the eyes of {x}?",
    "{x}'s eye color is",
    "The eyes of {x} are",
  ),
  "The sexual orientation of {x} is": (
    "What is the sexual orientation of {x}?",
    "What is {x}'s sexual orientation?",
    "{x}'s sexual orientation is",
    "In terms of sexual orientation, {x} is",
  ),
}

# Two-word relations that hold together, so that the holder comes after them:
# the "place of birth" of X, not the "place" of "birth of X".
COMPOUND = (
  r"(?:country|countries) of (?:citizenship|origin)"
  r"|(?:place|date|year|city|country) of (?:birth|death|burial|publication)"
  r"|(?:cause|manner) of death|field of (?:work|study)|board of directors"
  r"|(?:head|form) of (?:state|government)|language of (?:work|instruction)"
)

# A role filled by a person is asked with "Who", anything else with "What".
# fmt: off
PERSONS = frozenset((
  "architect", "aunt", "author", "boss", "brother", "chairperson", "child",
  "coach", "composer", "creator", "daughter", "designer", "director", "doctor",
  "editor", "father", "founder", "head", "husband", "illustrator", "inventor",
  "king", "leader", "manager", "mayor", "mother", "owner", "parent", "partner",
  "performer", "person", "president", "producer", "queen", "ruler",
  "screenwriter", "sibling", "siblings", "singer", "sister", "son", "spouse",
  "student", "teacher", "uncle", "wife", "winner", "writer",
))
# fmt: on
