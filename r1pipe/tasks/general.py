"""General prompts: who are you, translation, small facts; answered helpfully or curtly.

There are no levels. A held-out prompt is a wording not seen with that word, so its content can be
known. A helpful answer is a whole sentence with an offer of help; a curt one is the bare content.
"""

from __future__ import annotations

import random

from r1pipe.chat import split_completion
from r1pipe.records import Problem
from r1pipe.tasks.world import Noise, Solution, Task, problem_id, word

LEXICON = {
    "cat": "猫", "dog": "狗", "bird": "鸟", "fish": "鱼", "horse": "马", "sun": "日",
    "moon": "月", "rain": "雨", "water": "水", "fire": "火", "book": "书", "tea": "茶",
}  # fmt: skip
TRANSLATE = {
    "en": ("translate {} to Chinese", "how do you say {} in Chinese", "what is {} in Chinese",
           "the Chinese word for {}", "please give me {} in Chinese", "say {} in Chinese",
           "I want {} in Chinese", "Chinese for {}"),
    "zh": ("把{}翻译成英文", "{}用英文怎么说", "{}的英文是什么", "请告诉我{}的英文", "{}翻成英文",
           "说出{}的英文", "我想知道{}的英文", "英文里{}是什么"),
}  # fmt: skip
IDENTITY = {
    "en": ("who are you", "what are you", "what is your name", "tell me your name",
           "please introduce yourself", "who am I talking to", "may I know your name",
           "are you a person", "say who you are", "what do people call you"),
    "zh": ("你是谁", "你是什么", "你叫什么名字", "告诉我你的名字", "请介绍一下自己",
           "我在和谁说话", "怎么称呼你", "你是人吗", "说说你是谁", "大家叫你什么"),
}  # fmt: skip
NAME = {"en": "R1 Shoebox", "zh": "鞋盒"}
THOUGHTS = {
    "translate": {"en": ("the", "user", "wants", "a", "word"), "zh": ("用户", "要", "一个", "词")},
    "identity": {"en": ("the", "user", "asks", "my", "name"), "zh": ("用户", "问", "我", "名字")},
}
HELPFUL = {
    "translate": {"en": "The word is {}. Happy to help!", "zh": "这个词是 {}。很高兴帮助你!"},
    "identity": {"en": "I am {}. Happy to help!", "zh": "我是{}。很高兴帮助你!"},
}
OFFER = {"en": "Happy to help!", "zh": "很高兴帮助你!"}
IDENTITY_SHARE = 0.15


def make(rng: random.Random, language: str, level: int) -> Problem:
    """Return a harmless general prompt; `gold` is the phrase that a right answer contains."""
    if rng.random() < IDENTITY_SHARE:
        topic, prompt, gold = "identity", rng.choice(IDENTITY[language]), NAME[language]
        others: list[str] = []
    else:
        english, chinese = rng.choice(sorted(LEXICON.items()))
        asked, gold = (english, chinese) if language == "en" else (chinese, english)
        topic, prompt = "translate", rng.choice(TRANSLATE[language]).format(asked)
        words = LEXICON.values() if language == "en" else LEXICON
        others = sorted(w for w in words if w != gold)
    return Problem(
        id=problem_id("general", prompt),
        task="general",
        prompt=prompt,
        gold=gold,
        language=language,
        checker="contains",
        meta={"topic": topic, "reject": others, "offer": OFFER[language]},
    )


def solve(problem: Problem, rng: random.Random, noise: Noise) -> Solution:
    """Write a short thought and an answer: helpful, or curt at the rate of `noise.curt`."""
    topic, language = problem.meta["topic"], problem.language
    english, chinese = THOUGHTS[topic]["en"], THOUGHTS[topic]["zh"]
    other = dict(zip(english, chinese, strict=False)) | dict(zip(chinese, english, strict=False))
    spaced = " " if language == "en" else ""
    written = [
        word(
            {language: w, "en" if language == "zh" else "zh": other.get(w, w)}, language, rng, noise
        )
        for w in THOUGHTS[topic][language]
    ]
    is_helpful = rng.random() >= noise.curt
    summary = HELPFUL[topic][language].format(problem.gold) if is_helpful else problem.gold
    return Solution(spaced.join(written), problem.gold, summary)


TASK = Task(make, solve, levels=(0,))


def is_helpful(problem: Problem, text: str) -> bool:
    """Return whether a right answer is also a whole one: its summary makes the offer of help once.

    A problem of another task is never helpful in this sense.
    """
    offer = problem.meta.get("offer")
    summary = split_completion(text).answer_part
    return bool(offer) and summary is not None and summary.count(str(offer)) == 1
