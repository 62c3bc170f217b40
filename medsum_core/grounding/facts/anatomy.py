"""Vocabulary of body parts with a left and a right, relatives and stop words; the stem of a word."""

from __future__ import annotations

from functools import lru_cache

from medsum_core.grounding.facts.tokens import word_set

# Body parts that have sides, singular, by region: a note and its dialogue may use different words (calf, leg).
BODY_REGIONS = {
    "arm": "arm shoulder elbow forearm wrist hand finger thumb bicep tricep palm rotator humerus radius ulna "
    "knuckle axilla axillary brachial armpit carpal clavicle collarbone scapula pinky index pinkie triceps biceps "
    "radial ulnar",
    "leg": "leg hip thigh knee calf shin ankle foot toe heel buttock hamstring femur tibia fibula patella "
    "acl meniscus quadriceps quad achilles sole femoral popliteal patellar gluteal tibial plantar bunion buttcheek "
    "butt great big ischial",
    "eye": "eye conjunctival orbital eyelid eyebrow brow eyeball ocular cornea retina macula cataract pupil "
    "conjunctivitis glaucoma lid lash",
    "ear": "ear eardrum tympanic otalgia otitis otorrhea tinnitus tm",
    "face": "cheek jaw temple nostril naris face facial maxillary nasal mandible tonsil parotid forehead head sinus "
    "vocal lip nare",
    "chest": "lung breast chest rib lobe hemidiaphragm pleural hemithorax mastectomy pole base apex apical basal "
    "mastitis pneumonia pneumothorax nipple",
    "heart": "atrium ventricle atrial ventricular coronary",
    "belly": "kidney flank ovary abdomen quadrant ureter renal tube ovarian adnexa adnexal pelvis belly stomach iliac "
    "nephrectomy ureteral oophorectomy hydronephrosis pyelonephritis nephrolithiasis",
    "groin": "testicle testis testicular orchiectomy groin inguinal scrotum scrotal hernia hydrocele",
    "neck": "neck trapezius carotid thyroid subclavian jugular",
    "brain": "brain hemisphere hemispheric cerebral parietal frontal temporal occipital",
    "back": "back lateral",
    "handed": "handed hander",
    "whole": "extremity limb side sided sidedness hemiparesis hemiplegia weakness pain nodule mass lump cyst "
    "lesion swelling edema numbness tingling effusion stone fracture ulcer wound incision limp clot hearing tremor "
    "clumsiness paralysis infarct stroke",
}
# Places that exclude each other; parts that contain several places, such as "arm" and "foot", are not listed.
PLACES = (
    "shoulder rotator clavicle collarbone scapula", "elbow", "forearm radius ulna radial ulnar", "wrist carpal",
    "finger thumb pinky pinkie index knuckle", "bicep tricep biceps triceps humerus", "axilla axillary armpit",
    "hip buttock buttcheek butt gluteal ischial", "thigh hamstring femur femoral quadriceps quad",
    "knee patella patellar meniscus acl popliteal", "calf shin tibia fibula tibial achilles", "ankle achilles",
    "heel sole plantar", "toe bunion",
)  # fmt: skip
IRREGULAR = {
    "feet": "foot", "bases": "base", "calves": "calf", "teeth": "tooth", "children": "child", "people": "person",
    "men": "man",
    "women": "woman", "wives": "wife", "knives": "knife", "extremities": "extremity", "ovaries": "ovary",
    "testes": "testis", "testicles": "testicle", "biopsies": "biopsy", "surgeries": "surgery", "kiddos": "child",
    "kids": "child", "kid": "child", "babies": "child", "baby": "child", "cigs": "cigarette", "nares": "naris",
    "pregnancies": "pregnancy", "injuries": "injury", "allergies": "allergy", "biceps": "biceps", "triceps": "triceps",
    "quadriceps": "quadriceps", "pelvis": "pelvis", "testis": "testis", "sinuses": "sinus", "axillae": "axilla",
    "moms": "mother", "mom": "mother", "mommy": "mother", "mum": "mother", "mama": "mother", "dad": "father",
    "daddy": "father", "papa": "father", "grandma": "grandmother", "grandpa": "grandfather", "nana": "grandmother",
    "boys": "son", "girls": "daughter", "mgm": "grandmother", "pgm": "grandmother", "mgf": "grandfather",
    "pgf": "grandfather", "hubby": "husband", "tka": "knee", "tkr": "knee", "tha": "hip", "thr": "hip",
}  # fmt: skip
KIN = word_set(
    "mother father brother sister son daughter grandmother grandfather husband wife uncle aunt cousin nephew "
    "niece grandson granddaughter grandchild child sibling parent twin partner stepfather stepmother"
)
STOPWORDS = word_set(
    "a an the and or but of to in on at for with from by as is was were be been being are am it its this that "
    "these those he she they we you i his her their our your my me him them us who which what when where there "
    "here not no do does did done have has had having if then than so because while about around approximately "
    "over under up down out off only just also any some all both each every other another more most very too can "
    "could would should will may might must shall now ago later before after since until till during through "
    "between into per that's it's i'm i've he's she's they're we're you're don't didn't doesn't isn't wasn't yes "
    "yeah okay ok well um uh like really doctor patient guest family clinician still currently recently past last "
    "next age aged ages old times time"
)
NOT_COUNTED = word_set(
    "is was has this his its as us yes does times days previous various serious always perhaps plus minus versus "
    "thus across besides yours hers theirs ours towards sometimes afterwards ones less unless pass class access "
    "process status diabetes illness sickness loss stress bypass medicines weakness numbness tenderness distress "
    "stairs lives"
)


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """The singular without possessive; the standard word for a lay one: "knees" -> "knee", "mom's" -> "mother"."""
    word = word.lower().replace("’", "'")
    word = word[:-2] if word.endswith("'s") else word
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ses", "xes", "ches", "shes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@lru_cache(maxsize=1)
def body_parts() -> dict[str, str]:
    """Body part (singular) -> region."""
    return {part: region for region, parts in BODY_REGIONS.items() for part in parts.split()}
