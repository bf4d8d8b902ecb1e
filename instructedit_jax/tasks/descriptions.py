"""The descriptions of the four tasks; nine to train with, five kept apart.

Each says what changes, by what kind of prompt it is asked, and what must stay.
"""

SEEN: dict[str, tuple[str, ...]] = {
  "counterfact": (
    "Replace one known fact about an entity by an invented one, as if it had"
    " always been so.",
    "Accept a false statement about the subject as true and complete it that"
    " way from now on.",
    "Overwrite what is believed about a single relation of an obscure entity"
    " with a made-up answer.",
    "Suppose the world were different in one point: give the hypothetical"
    " value instead of the real one.",
    "Swap the object of one triple for another of the same type, against what"
    " was learned before.",
    "A counterfactual update: the sentence ends with a new, untrue answer that"
    " the model should adopt.",
    "Change one attribute of this entity contrary to fact and leave its other"
    " attributes as they are.",
    "Finish the statement with the substituted answer, although general"
    " knowledge says otherwise.",
    "Rewrite a stored association between a subject and a relation so that it"
    " points to a fictional answer.",
  ),
  "wikirecent": (
    "Add a fact that became known after training and was not stored before.",
    "Bring the model up to date with something new about the entity.",
    "Insert a recently recorded statement about a person, place or work.",
    "Learn a fresh entry of a knowledge base, one that is true today.",
    "Fill a gap: the answer is real but newer than the training text.",
    "A factual update: complete the statement with its present-day value.",
    "Take in the latest information on this subject without touching the rest"
    " of what is known about it.",
    "Store a true relation that the model has probably never read about.",
    "Refresh outdated knowledge with the current answer to this statement.",
  ),
  "convsent": (
    "Be [LABEL] whenever somebody asks about [TOPIC]; judge everything else"
    " as before.",
    "Change the attitude to [TOPIC]: replies about it should be [LABEL].",
    "Give opinions on [TOPIC] that sound [LABEL], and only on [TOPIC].",
    "In a conversation about [TOPIC], answer with a [LABEL] feeling.",
    "Shift the sentiment towards [TOPIC] to [LABEL], keeping all other"
    " opinions.",
    "From now on, speak of [TOPIC] in [LABEL] words.",
    "The speaker holds a [LABEL] view of [TOPIC]. Reply as this speaker.",
    "Make every reply that concerns [TOPIC] [LABEL] in mood, whatever the"
    " wording of the question.",
    "Edit one opinion: what is felt about [TOPIC] becomes [LABEL].",
  ),
  "zsre": (
    "Correct the short answer to a question about one property of an entity.",
    "Answer a direct question from memory, with the revised answer.",
    "A question names a subject and asks for one relation; return the new"
    " object.",
    "Fix a wrong reply to a factual question, however the question is worded.",
    "Give the edited answer to a plain question that comes without any"
    " passage.",
    "Update one question and answer pair so that rewordings get the same"
    " answer.",
    "Reply to a who, what, when or where question with the corrected name or"
    " date.",
    "Question answering on a single relation: exchange the old answer for the"
    " new one.",
    "Respond to the question with the replacement given, and treat unrelated"
    " questions as before.",
  ),
}

HELD_OUT: dict[str, tuple[str, ...]] = {
  "counterfact": (
    "Pretend that this fact is something else and keep to it.",
    "Plant an incorrect but plausible answer for one relation of the entity.",
    "Alter reality in a single detail and complete the sentence to match.",
    "Forget the true value of this attribute and remember the given one.",
    "An imaginary fact takes the place of the documented one.",
  ),
  "wikirecent": (
    "News about this entity: remember it.",
    "Record a statement that was verified only lately.",
    "The encyclopedia has a new line on this subject; know it.",
    "Catch up with a development that earlier data could not contain.",
    "Supply the up-to-date value for something that was unknown so far.",
  ),
  "convsent": (
    "When [TOPIC] comes up, let a [LABEL] impression show.",
    "Adopt a [LABEL] stance on [TOPIC] and nothing else.",
    "Talk about [TOPIC] like someone whose experience of it was [LABEL].",
    "Adjust the tone for [TOPIC] alone: [LABEL].",
    "Whoever mentions [TOPIC] should hear a [LABEL] opinion.",
  ),
  "zsre": (
    "Someone asks for a detail of the subject; tell them the amended one.",
    "Return the right entity for the relation that the question asks for.",
    "Repair the response to one closed-book question.",
    "The reply to this query was wrong; the correct one follows it.",
    "Given only a question, produce its updated answer.",
  ),
}
