"""The emoji recipe: names, captions, splits and files, on a few made-up emoji; nothing is downloaded."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emoji"))

import documents
from captions import common_keywords, is_plural, parse_name, variants, with_article
from chats import chats
from pictures import TONES, code_of, code_of_text, flatten, fluent_code
from splits import ALWAYS_SEEN, PROMPTS, Emoji, assign, verify, withheld_styles

# --- names and captions


@pytest.mark.parametrize(
    ("tts", "name"),
    [
        ("red apple", "red apple"),
        ("flag: France", "flag of France"),
        ("flag: United States", "flag of the United States"),
        ("flag: Bosnia & Herzegovina", "flag of Bosnia and Herzegovina"),
        ("waving hand: light skin tone", "waving hand with light skin tone"),
        ("man: light skin tone, red hair", "man with red hair and light skin tone"),
        ("woman: bald", "bald woman"),
        ("person: beard", "person with a beard"),
        ("man running: facing right, dark skin tone", "man running facing right with dark skin tone"),
        ("family: man, woman, girl", "family of a man, a woman and a girl"),
        (
            "kiss: woman, man, light skin tone, dark skin tone",
            "kiss of a woman and a man with light skin tone and dark skin tone",
        ),
        ("keycap: 8", "keycap with an 8"),
        ("Japanese “here” button", 'Japanese "here" button'),
        ("eight o’clock", "eight o'clock"),
        ("light skin tone", "light skin tone"),
    ],
)
def test_short_names_become_phrases(tts, name):
    assert parse_name(tts).text == name


def test_concept_drops_the_skin_tone_and_group_drops_the_person():
    name = parse_name("woman firefighter: dark skin tone")
    assert (name.concept, name.group) == ("woman firefighter", "firefighter")
    assert parse_name("man firefighter").group == parse_name("firefighter").group
    assert parse_name("woman").group == "woman"  # nothing is left without the person
    assert parse_name("man: red hair").group != parse_name("man: bald").group
    assert parse_name("woman and man holding hands").group == parse_name("people holding hands").group
    assert parse_name("flag: Oman").group != parse_name("flag: Chad").group


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("unicorn", "a unicorn"),
        ("hourglass done", "an hourglass done"),
        ("SOS button", "an SOS button"),
        ("AB button (blood type)", "an AB button (blood type)"),
        ("octopus", "an octopus"),
        ("glasses", "glasses"),
        ("people hugging", "people hugging"),
        ("person lifting weights", "a person lifting weights"),
        ("woman and man holding hands", "a woman and a man holding hands"),
        ("bowl with spoon", "a bowl with spoon"),
        ("litter in bin sign", "a litter in bin sign"),
        ("kiss of a man and a man", "a kiss of a man and a man"),
        ("fog", "fog"),
        ("cooked rice", "cooked rice"),
        ("no smoking", "no smoking"),
        ("ten o'clock", "ten o'clock"),
        ("medium-light skin tone", "medium-light skin tone"),
        ("Aries", "Aries"),
        ("T-Rex", "a T-Rex"),
        ("flag of France", "the flag of France"),
    ],
)
def test_article(name, phrase):
    assert with_article(name) == phrase


def test_plural():
    assert is_plural("folded hands")
    assert is_plural("women with bunny ears")
    assert not any(map(is_plural, ("bus", "Aries", "man with bunny ears", "bowl with spoon", "red apple")))


def test_variants_say_a_picture_with_and_without_article_style_and_keywords():
    assert variants("red apple", ["food", "fruit"], "3D") == {
        "styled": "a red apple, 3D style",
        "article": "a red apple",
        "name": "red apple",
        "name-styled": "red apple, 3D style",
        "keywords": "a red apple (food, fruit)",
        "keywords-styled": "red apple (food, fruit), 3D style",
    }
    assert variants("fog", [], "Noto") == {"styled": "fog, Noto style", "article": "fog"}  # no text twice


def test_keywords_are_common_and_say_something_new():
    names = {str(number): f"thing {number}" for number in range(6)} | {"apple": "green fruit"}
    keywords = {code: ["food", "fruit", "whatever"] for code in names} | {"0": ["food", "fruit", "yolo"]}
    chosen = common_keywords(names, keywords)
    assert chosen["0"] == ["food", "fruit"]  # "yolo" is rare
    assert chosen["apple"] == ["food"]  # "fruit" is in the name, "whatever" says nothing


def test_chats_ask_for_the_picture_and_about_it():
    draw, describe, both = chats("red apple", "3D", "images/3d/1f34e.png")
    picture = {"type": "image", "image": "images/3d/1f34e.png"}
    assert [message["role"] for message in draw["messages"]] == ["user", "assistant"]
    assert "a red apple" in draw["messages"][0]["content"][0]["text"]
    assert draw["messages"][1]["content"] == [picture]
    assert describe["messages"][0]["content"][0] == picture
    assert "a red apple" in describe["messages"][1]["content"][0]["text"]
    assert [message["role"] for message in both["messages"]] == ["user", "assistant"] * 2
    assert both["messages"][1]["content"] == [picture]
    assert "style" not in both["messages"][0]["content"][0]["text"]
    assert all(word.count("{") == 0 for word in (message["content"][0].get("text", "") for message in both["messages"]))
    assert chats("red apple", "3D", "x") == chats("red apple", "3D", "x")
    answers = [chats(f"{n} shoes", "3D", "x")[1]["messages"][1]["content"][0]["text"] for n in range(40)]
    assert any(answer.startswith("These are") for answer in answers)
    assert not any(answer.startswith(("This is", "It is")) for answer in answers)


# --- codes and pictures


def test_codes_do_not_depend_on_how_a_file_is_spelt():
    assert code_of("0023-fe0f-20e3.webp") == code_of("23-20E3.png") == code_of_text("#\ufe0f\u20e3") == "0023-20e3"
    england = "1f3f4-e0067-e0062-e0065-e006e-e0067"
    assert code_of(england.replace("-e", "_e") + ".webp") == code_of(f"{england}-e007f.png")


def test_fluent_tones_are_put_right():
    def tones(base):
        return [TONES.index(fluent_code(base.format(tone)).split("-")[1]) for tone in TONES]

    assert tones("1f44b-{}.webp") == [0, 2, 1, 3, 4]
    assert tones("1f46b-{}.webp") == [0, 1, 2, 3, 4]
    assert tones("1f6b5-{}.webp") == [4, 2, 3, 1, 0]
    couple = "1f469-1f3fc-200d-2764-200d-1f469-1f3fc"
    assert fluent_code(f"{couple}.webp") == couple
    assert fluent_code("1f3fc.webp") == "1f3fc"  # a swatch of the tone itself


def test_flatten_leaves_no_rim_of_invisible_colour_and_keeps_proportions():
    image = Image.new("RGBA", (128, 64))  # transparent black, twice as wide as high
    image.paste((255, 0, 0, 255), (0, 0, 64, 64))
    flat = flatten(image, 32)
    assert (flat.size, flat.mode) == ((32, 32), "RGB")
    assert flat.getpixel((31, 16)) == (255, 255, 255)
    assert flat.getpixel((4, 16)) == (255, 0, 0)
    assert flat.getpixel((4, 2)) == (255, 255, 255)  # the padding
    row = [flat.getpixel((x, 16)) for x in range(32)]
    assert all(red > 250 for red, _, _ in row)  # red fading to white stays at full red: black would lower it


# --- splits

SIGN = {"woman": "2640", "man": "2642"}


def world(hands=60, jobs=60, things=300):
    """Hands in five tones, jobs done by a person, a woman and a man, and things; and the people and signs."""
    named = {"1f469": "woman", "1f468": "man", "2640": "female sign", "2642": "male sign", "1f34e": "red apple"}
    tone_names = ("light", "medium-light", "medium", "medium-dark", "dark")
    for number in range(hands):
        base = f"a{number:03x}"
        named[base] = f"hand {number}"
        named |= {
            f"{base}-{tone}": f"hand {number}: {name} skin tone" for tone, name in zip(TONES, tone_names, strict=True)
        }
    for number in range(jobs):
        base = f"b{number:03x}"
        named[base] = f"person job{number}"
        for person, sign in SIGN.items():
            named[f"{base}-200d-{sign}"] = f"{person} job{number}"
            named[f"{base}-{TONES[4]}-200d-{sign}"] = f"{person} job{number}: dark skin tone"
    named |= {f"c{number:03x}": f"thing {number}" for number in range(things)}
    return [Emoji(code, parse_name(tts)) for code, tts in named.items()]


def test_parts_of_a_composition():
    emoji = Emoji(f"1f469-{TONES[2]}-200d-1f680", parse_name("woman astronaut: medium skin tone"))
    assert emoji.tones == (TONES[2],)
    assert emoji.figures == ("1f469", "1f680")
    assert emoji.parts == {"1f469", TONES[2], "1f680"}
    assert Emoji(TONES[0], parse_name("light skin tone")).tones == ()


def test_splits_hold_what_they_promise():
    emojis = world()
    splits = assign(emojis)
    verify(emojis, splits)
    by_split = {split: [emoji for emoji in emojis if splits[emoji.code] == split] for split in set(splits.values())}
    train_groups = {emoji.name.group for emoji in by_split["train"]}
    train_codes = {emoji.code for emoji in by_split["train"]}
    groups = {emoji.name.group for emoji in emojis}
    held_out_groups = {emoji.name.group for emoji in by_split["test_concepts"]}
    assert 0.02 < len(held_out_groups) / len(groups) < 0.09
    assert not held_out_groups & train_groups
    compositions = [emoji for emoji in emojis if len(emoji.parts) > 1]
    assert 0.05 < len(by_split["test_compositions"]) / len(compositions) < 0.2
    for emoji in by_split["test_compositions"]:
        assert emoji.code.split("-")[0] in train_codes
        assert all(any(part in other.parts for other in by_split["train"]) for part in emoji.parts)
    joined = {emoji.name.concept for emoji in by_split["test_compositions"] if not emoji.tones}
    assert joined  # some woman or man doing a job …
    assert not joined & {emoji.name.concept for emoji in by_split["train"]}  # … in any skin tone


def test_splits_depend_on_names_alone():
    emojis = world()
    assert assign(emojis[::-1]) == assign(emojis)
    few = [emoji for emoji in emojis if emoji.name.text.startswith("thing")]
    whole = assign(emojis)
    assert assign(few) == {emoji.code: whole[emoji.code] for emoji in few}


def test_a_composition_is_not_held_out_when_training_lacks_a_part():
    emojis = [emoji for emoji in world() if "2640" not in emoji.parts]
    lonely = [Emoji(f"d{n:03x}-200d-e{n:03x}", parse_name(f"lonely {n}")) for n in range(200)]
    splits = assign([*emojis, *lonely])  # the second part of each is nowhere else
    assert {splits[emoji.code] for emoji in lonely} == {"train", "test_concepts"}


def test_verify_notices_leaks():
    emojis = world()
    splits = assign(emojis)
    composition = next(e for e in emojis if splits[e.code] == "test_compositions" and e.name.text.startswith("hand"))
    with pytest.raises(AssertionError, match="does not show"):
        verify(emojis, splits | {composition.code.split("-")[0]: "validation"})
    joined = next(e for e in emojis if splits[e.code] == "test_compositions" and not e.tones)
    toned = next(e for e in emojis if e.name.concept == joined.name.concept and e.tones)
    with pytest.raises(AssertionError, match="whose concept is held out"):
        verify(emojis, splits | {toned.code: "train"})
    concept = next(
        e for e in emojis if splits[e.code] == "test_concepts" and e.name.text.startswith("hand") and e.tones
    )
    with pytest.raises(AssertionError, match="shows its concept"):
        verify(emojis, splits | {concept.code: "train"})


def test_the_readme_prompts_are_always_trained_on():
    emojis = [Emoji(f"f{number:03x}", parse_name(name)) for number, name in enumerate(PROMPTS)]
    assert set(assign(emojis).values()) == {"train"}
    assert not withheld_styles({name: ["3d", "noto", "twemoji"] for name in PROMPTS})
    assert {"red apple", "cat face", "red heart"} < ALWAYS_SEEN


def test_validation_takes_at_most_one_style_of_a_concept():
    styles = ["3d", "noto", "twemoji"]
    withheld = withheld_styles({f"thing {number}": styles for number in range(1000)})
    assert 0.06 < len(withheld) / 1000 < 0.12  # 3 % of the pairs
    assert set(withheld.values()) == set(styles)
    assert not withheld_styles({f"thing {number}": ["noto"] for number in range(1000)})


# --- text


def test_documents_are_cut_between_sentences_and_lose_nothing():
    text = "\n\n".join(f"Mr. Ahab said: {'whale ' * 9}number {n}. Was it so? Yes!" for n in range(20))
    parts = documents.cut(text, 200)
    assert all(part.endswith((".", "?", "!")) and not part.endswith("Mr.") for part in parts)
    assert all(len(part) >= 100 for part in parts)
    assert len(parts) > 5
    assert "".join("".join(parts).split()) == "".join(text.split())
