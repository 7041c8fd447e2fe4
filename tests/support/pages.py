"""What tests look for in an HTML page."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects what a page would load, its tags and its text; fails on tags that do not nest."""

    @classmethod
    def of(cls, source: str) -> "Page":
        """A page that stands alone: it loads nothing and runs nothing, and its charts take the text's colour."""
        page = cls()
        page.feed(source)
        page.close()
        assert page.open == []
        assert all(target.startswith("data:image/jpeg;base64,") for target in page.loads)
        assert "script" not in page.tags
        assert "@import" not in source
        assert not re.search(r"url\((?!#)", source)
        assert "#010203" not in source
        assert "svg" not in page.tags or "currentColor" in source
        return page

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
