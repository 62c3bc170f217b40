"""Clinical words of a note for lay words of its dialogue are not flagged; findings without any support are."""

from __future__ import annotations

import pytest
from labelled_facts import judged_flags


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        # inflections and spelled letters
        ("No dysuria.", ("Does it hurt when peeing?", "No.")),
        ("No urinary tract infection.", ("Well?", "I had no U T Is in spring.")),
        ("Brother with ventricular tachycardia.", ("Family?", "My brother has N S V T.")),
        ("B12 is low.", ("And?", "They said my B twelve was low.")),
        # lay words
        ("Status post lumbar puncture.", ("Tests?", "They drew fluid from my back.")),
        ("Has knee contractures.", ("Legs?", "I can't straighten that knee.")),
        ("Had a laceration.", ("What happened?", "I sliced my thumb on a can.")),
        ("Has postnasal drip.", ("Nose?", "Stuff keeps dropping down the back of my throat.")),
        ("Has buttock spasms.", ("Pain?", "My butt muscles keep spazzing.")),
        ("No substance abuse.", ("Habits?", "I don't do drugs.")),
        # a problem with the body part that the note names
        ("Has left knee pain.", ("Joints?", "An issue with the left knee.")),
        ("Has umbilical discharge.", ("And?", "There is fluid at his belly button.")),
        ("Has testicular swelling.", ("And?", "One of my balls has got big.")),
        # partial denials of a note
        ("No chills except recently.", ("Chills?", "I have chills now.")),
        ("No numbness elsewhere.", ("Numb?", "My hand is numb.")),
        ("No gross hematuria.", ("Urine?", "A little blood in the urine.")),
        ("A non-contact injury in which she injured her knee.", ("Any contact?", "No. I hurt it. My knee.")),
        # answers to several questions or to an alternative question
        ("No menorrhagia.", ("How would you describe your periods? Light, normal, heavy?", "Pretty normal.")),
        ("No lymphadenopathy.", ("The lymph nodes look fine.", "Good.")),
        ("Needs a blood transfusion.", ("Has he had a blood transfusion before?", "No, this is the first.")),
        ("Denies vomiting.", ("And no other symptoms?", "No.")),
        ("Right arm weakness.", ("Any weakness on the right side?", "Yes, a little.")),
        # the last action on a drug, and actions on another one
        (
            "I do not know if this is why he is off Coumadin.",
            ("I am not sure if he is off Coumadin.", "He is on Coumadin. Not sure if he has stopped the medicine."),
        ),
        (
            "He was put on Cardizem with reportedly heart rate in the low range, so that was stopped.",
            ("So they gave you Cardizem and they stopped it when your heart was slow.", "Yes."),
        ),
        ("Continues her drugs except for stopping the Prozac.", ("Go on with all of them except Prozac.", "OK.")),
        ("Takes Lasix for lower extremity edema.", ("Swelling?", "I take Lasix for my leg swelling.")),
        (
            "She likes Dilaudid and would like to get the morphine changed to Dilaudid.",
            ("Do you have morphine? Do you need more?", "I don't like morphine. Can you change it to Dilaudid?"),
        ),
        (
            "He was taking Benadryl at that time.",
            ("No swelling?", "Due to the Benadryl I took.", "Did you take Benadryl again today?", "No, not needed."),
        ),
        # results, and statements about something else
        ("Her triglycerides were elevated.", ("And?", "I had high triglycerides. I keep well.", "Good.", "Yes.")),
        ("They have misplaced the Cardizem.", ("So you are not on Cardizem.", "That's right. I misplaced it.")),
        ("Abnormal audiogram.", ("Let's perform an audiogram test to check your ears.", "Sounds good.")),
        (
            "The patient received labs including a urinalysis.",
            ("They checked it. I see the orders for a urinalysis.", "And a mask.", "But did that help you?", "No."),
        ),
        ("He and his wife have two children.", ("Are you married?", "Yes.", "Children?", "We have two kids.")),
        (
            "No hematuria.",
            ("Any pain passing urine? Any blood?", "No.", "And does the bleeding stop normally?", "Oh yes!"),
        ),
        (
            "I am not familiar with the NSAID causing sores.",
            ("I do not think that aspirin, an NSAID, is the cause of the sores.", "Oh."),
        ),
        # the whole family, or one relative
        ("Migraine in her siblings.", ("Do migraines run in the family?", "Yes. Everyone has them.")),
        (
            "Remarkable for heart disease, dementia.",
            (
                "Heart disease in the family?",
                "I know someone had heart disease.",
                "Dementia?",
                "My uncle has dementia.",
            ),
        ),
        # automatic transcripts: no full stops, split words; exams
        ("Mild ankle sprain.", ("it's a mild ankle sprain we will wrap it do you have questions", "no")),
        ("Denies vomiting.", ("so any of that", "i have n't been vomiting but i feel ill")),
        ("Reports chills.", ("a fever", "no fever some chills and i can not eat")),
        ("No wheezes, rales or murmurs.", ("Your lungs are clear and your heart sounds fine.", "Good.")),
        ("No knee pain.", ("Any knee, ankle or foot pain?", "No.", "Any back pain?", "Yes.")),
        ("He has been in physical therapy.", ("And?", "No problem in physical therapy.")),
        ("Non-healing wound.", ("And?", "The wound won't close.")),
        ("Denies vision changes.", ("Any nausea? Any vision changes?", "Yes, I'm queasy. No vision changes.")),
        ("No recurrence, appendectomy, and glaucoma surgery.", ("And?", "Glaucoma surgery and my appendix is out.")),
        # headings
        ("NERVOUS SYSTEM: No falls.", ("Falls?", "No.")),
        ("Ob/Gyn: Two pregnancies.", ("Pregnancies?", "Two.")),
    ],
)
def test_paraphrases_are_not_flagged(note: str, lines: tuple[str, ...]) -> None:
    assert judged_flags(note, *lines) == []


@pytest.mark.parametrize(
    ("note", "lines"),
    [
        ("Has left knee pain.", ("Knee?", "The left knee is where I keep my hand.")),
        ("Has dysuria.", ("Anything with peeing?", "Only that I go often.")),
        ("Has knee contractures.", ("Legs?", "My legs are long.")),
        ("No chills.", ("Chills?", "I have chills now.")),
        ("No numbness.", ("Numb?", "My hand is numb.")),
        ("An injury of the knee.", ("Have you hurt your knee?", "No.")),
        ("No nocturia.", ("Getting up at night to pee?", "Three times.")),
        ("Needs a blood transfusion.", ("Has he had a blood transfusion before?", "No, never.")),
        ("Takes Zyprexa.", ("Drugs?", "I took Zyprexa, but I stopped it.")),
        ("Migraine in her siblings.", ("Do migraines run in the family?", "My mother has them.")),
        ("Nervous system: has anxiety.", ("Falls?", "No.")),
    ],
)
def test_unsupported_findings_are_flagged(note: str, lines: tuple[str, ...]) -> None:
    assert judged_flags(note, *lines) != []
