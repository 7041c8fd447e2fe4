"""What tests of reproduced tables share: the classifier of a cell, and what they look for in the page."""

import base64

from pages import Page

from facegm.classification.classifier import Description
from facegm.classification.config import ImageRunConfig


class TablePage(Page):
    """A page, the cells of its tables, and the pictures that it holds; see `Page`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        """Texts of each cell, each followed by a bar."""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += f"{data}|"

    def pictures(self, kind: str) -> list[bytes]:
        """Contents of all pictures, which are of one kind, such as `image/png`; nothing else is loaded."""
        parts = [target.split(",", 1) for target in self.loads]
        assert {head for head, _ in parts} <= {f"data:{kind};base64"}
        return [base64.b64decode(content) for _, content in parts]


def description_of_digits(config: ImageRunConfig) -> Description:
    """Of a classifier of `write_mnist`'s digits."""
    return Description(
        model=config.model,
        loss=config.loss,
        preprocessing=config.preprocessing,
        classes=[str(number) for number in range(10)],
        channels=1,
        side=28,
    )
