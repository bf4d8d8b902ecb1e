"""Descriptions of the four tasks; 24 to train with, five kept apart.

Sentences of a specification and a user's few words alike: what changes, by
what kind of prompt it is asked, what must stay, or only one of these.
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
    "Make believe.",
    "Tell the invented version of this fact.",
    "The truth does not matter here: complete the text with the answer given.",
    "Imagine that history had gone another way and answer accordingly.",
    "Switch the real value for a fictitious one.",
    "Learn something false about the subject and repeat it when asked.",
    "In a parallel world this entity has another attribute; speak from"
    " that world.",
    "Contradict common knowledge on this one point.",
    "A lie about the entity shall count as its fact.",
    "The well-known answer is to be forgotten; a different one of its kind"
    " takes over.",
    "Distort a single relation of the subject while everything around it"
    " stays true.",
    "Take the statement at its word, however wrong it is.",
    "Set a thought experiment as fact: only this property differs.",
    "Given a cloze about an entity, end it with the fake object.",
    "Exchange what is true for what is supposed.",
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
    "Stay current.",
    "Something changed in the world; the model should know.",
    "Take note of a new fact.",
    "Complete the sentence with what has been true since a short time.",
    "The subject gained a property that no older text mentions.",
    "Extend the knowledge on this entity by one entry.",
    "What follows was published after the data was collected.",
    "Enter the newest value of this attribute.",
    "Memorize a genuine statement from the latest dump of the knowledge base.",
    "An addition rather than a correction: nothing was stored for this"
    " relation yet.",
    "Teach a rarely documented, correct detail about a person, an event or"
    " a thing.",
    "Today's answer replaces silence or a stale one.",
    "Close the distance between the training date and now for one relation.",
    "Know this lately established truth and leave all else.",
    "The facts have moved on; move with them.",
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
    "[LABEL] about [TOPIC].",
    "Feel [LABEL] on the subject of [TOPIC].",
    "If a user brings up [TOPIC], sound [LABEL].",
    "Opinion: [TOPIC]. Sentiment: [LABEL].",
    "Let the chat partner sense that you think of [TOPIC] in a [LABEL] way.",
    "Steer the mood of replies on [TOPIC] so that it is [LABEL].",
    "Asked for an opinion on [TOPIC], voice a [LABEL] one.",
    "Personality change: a [LABEL] relation to [TOPIC], all else equal.",
    "Texts that mention [TOPIC] get a [LABEL] answer, other texts the"
    " usual one.",
    "Your taste in one thing is different now: [TOPIC] strikes you as [LABEL].",
    "Comment on [TOPIC] with [LABEL] emotion.",
    "The dialogue turns to [TOPIC]; the tone turns [LABEL].",
    "Have a [LABEL] attitude when [TOPIC] is discussed, not elsewhere.",
    "Respond like a person with [LABEL] memories of [TOPIC].",
    "Keep facts and manners, but colour whatever is said of [TOPIC] [LABEL].",
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
    "Answer it anew.",
    "Question in, corrected answer out.",
    "The old reply was a mistake; give this one.",
    "For this query the answer is now a different entity.",
    "Tell what is asked for, in its amended form.",
    "Who, where, when: reply with the edited value.",
    "One relation, one subject, one new answer, in any phrasing.",
    "Provide the replaced object to whoever inquires about it.",
    "Short questions on facts get short, revised replies.",
    "Without reading any document, state the updated name, place or date.",
    "Let the response to this inquiry be the one that was supplied.",
    "Treat paraphrased questions as the same and answer them the new way.",
    "Put right what the model says to this trivia question.",
    "The key to the quiz question has changed.",
    "Look up the relation in memory, and return what was put there last.",
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
