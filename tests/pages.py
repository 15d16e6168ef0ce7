"""Reads an HTML page that the tests look at."""

import html.parser
import json
import re


class Page(html.parser.HTMLParser):
    """Tags, attributes that could load something, visible text, and figures of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.visible, self.figures, self.open = [], [], [], [], []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.visible).replace("\u00a0", " "))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "action", "data")]
        self.json_due = tag == "script" and ("type", "application/json") in attrs

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            if self.open[-1] == "script" and self.json_due:
                self.figures.append(json.loads(data))
        else:
            self.visible.append(data)
