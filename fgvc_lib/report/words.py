"""The report's words in each of its languages: titles, headers, and how numbers are written."""

import string
import tomllib
from importlib import resources

from ..experiments.variants import known_variants, title_of


def template(name: str) -> str:
    """The text of a file in templates/."""
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


class Words(string.Formatter):
    """The words of one language, "en" or "zh-CN", from templates/words.LANG.toml."""

    def __init__(self, lang: str = "en"):
        self.lang, self.text = lang, tomllib.loads(template(f"words.{lang}.toml"))

    def write(self, style: str, *values) -> str:
        """Values in one of the file's formats."""
        text = self.format(self.text["formats"][style], *values)
        return text.replace("） ", "）")  # a wide bracket brings its own space

    def format_field(self, value, format_spec: str) -> str:
        """Python's format specifications, and those that the files of words explain."""
        if format_spec == "title" and self.lang == "zh-CN" and value in known_variants():
            return known_variants()[value].title_zh
        if format_spec == "title":
            return title_of(value)
        if format_spec in ("rule", "weights"):
            return self.text[format_spec].get(value, value)
        if format_spec in ("claim", "said", "verdict", "level", "why"):
            return self.text[format_spec][value]
        if format_spec == "p":
            return f"= {value:.3f}" if value >= 0.001 else "< 0.001"
        if format_spec.endswith("p"):
            return format(value, f"{format_spec[:-1]}%").removesuffix("%")
        return format(value, format_spec)
