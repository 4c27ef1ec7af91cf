"""Which language texts are in, guessed by script and by the commonest words; no model, and no certainty."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

from tidemill.proposing.prose import words_of

LEAST_SHARE = 0.06
"""Of all words, those that are a language's commonest."""
LEAST_LEAD = 1.25
"""How many more of one language's than of any other's."""

COMMON_WORDS = {
    "en": "the and of to is that it for was with this but not you have are they be my very so what which all would",
    "de": "der die das und ist nicht ein eine zu den mit von für auf ich es sich dem auch war wie aber nur noch sehr",
    "fr": "le la les des est et une un du que pas pour dans qui je ce sur plus avec très mais il elle cette nous",
    "es": "el la los las es y un una que de no por para con en lo muy pero se me este esta su como más",
    "it": "il la le gli è e un una che di non per con in lo molto ma si mi questo questa sono del della come",
    "pt": "o a os as é e um uma que de não por para com em muito mas se me este esta do da são foi",
    "nl": "de het een en is niet van ik dat die met voor op zijn er ook maar wel heel naar was bij deze dit te",
    "sv": "och att det är en som på inte av för med jag den har till ett om men var mycket så från de vi",
    "da": "og at det er en som på ikke af for med jeg den har til et om men var meget så fra de vi",
    "no": "og at det er en som på ikke av for med jeg den har til et om men var veldig så fra de vi",
    "fi": "ja on ei se että en oli niin mutta kun hän ole kuin olen myös tai sen jos vain nyt",
    "pl": "i w na nie jest się z do to że jak ale o po tak co za bardzo od dla czy tym mnie",
    "cs": "a je se na v to že s z do ne ale jak o jsem po tak co za pro velmi není jsou si",
    "ro": "și de la nu este în o un cu pe că din mai pentru ce sunt dar foarte care am fost au",
    "hu": "a az és nem hogy egy is van meg de ez csak nagyon volt már mint el ha még ami",
    "tr": "bir ve bu çok da de için ne ile ama değil daha gibi var ben o kadar olarak en iyi",
    "id": "yang dan di ini itu tidak dengan untuk saya dari ada ke akan bisa pada juga sangat tapi sudah",
    "vi": "và là của không có cho được một này những trong với người để rất các đã tôi thì như",
}
SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "HANGUL": "ko",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "HEBREW": "he",
    "GREEK": "el",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}
"""The commonest language of each script; Latin has many."""
NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "hy": "Armenian", "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "ko": "Korean",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sv": "Swedish", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
_LANGUAGES_OF = {code: frozenset(words.split()) for code, words in COMMON_WORDS.items()}


def guess_language(texts: Iterable[str]) -> str | None:
    """The ISO 639-1 code of the language that most of the words are in; None where that is not plain.

    >>> guess_language(["Das ist nicht der Film, den ich mit dir sehen wollte."])
    'de'
    """
    words = [word for text in texts for word in words_of(text)]
    if not words:
        return None
    script, num_words = Counter(map(_script, words)).most_common(1)[0]
    if script != "LATIN":
        # Japanese is written with Chinese characters too; hardly a sentence is without its own.
        kana = sum(_script(word) in ("HIRAGANA", "KATAKANA") for word in words)
        return "ja" if kana > num_words / 20 else SCRIPTS.get(script)
    found = Counter({code: sum(word in common for word in words) for code, common in _LANGUAGES_OF.items()})
    (best, most), (_, second) = found.most_common(2)
    return best if most >= LEAST_SHARE * len(words) and most >= LEAST_LEAD * second else None


def language_name(code: str) -> str:
    return NAMES.get(code, code)


def _script(word: str) -> str:
    return unicodedata.name(word[0], "").partition(" ")[0].partition("-")[0]
