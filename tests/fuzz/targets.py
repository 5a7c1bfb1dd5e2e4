"""All targets by name."""

from __future__ import annotations

from fuzz import answers, feeds, rights

TARGETS = {each.name: each for each in (*answers.TARGETS, *feeds.TARGETS, *rights.TARGETS)}
