"""Scripts as a Redis server runs them: the very source, in the same version of Lua."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence

from lupa.lua51 import LuaRuntime, lua_type

Call = Callable[[Sequence[bytes]], object]

_FRAME = b"function(redis, cjson, KEYS, ARGV) %s\nend"


class Script:
    """A compiled script. Scripts share nothing but the interpreter."""

    def __init__(self, source: bytes) -> None:
        self._lua = _lua()
        self._function = self._lua.eval(_FRAME % source)

    @staticmethod
    @functools.cache
    def of(source: bytes) -> Script:
        return Script(source)

    def run(self, call: Call, keys: Sequence[bytes], args: Sequence[bytes]) -> object:
        """Its reply, every `redis.call` of it made through *call*."""
        table = self._lua.table_from
        redis = table({b"call": lambda *words: self._to_lua(call([_word(each) for each in words]))})
        cjson = table(
            {b"decode": lambda text: self._to_lua_json(json.loads(text)), b"encode": _to_json}
        )
        return _to_reply(self._function(redis, cjson, table(list(keys)), table(list(args))))

    def _to_lua(self, reply: object) -> object:
        match reply:
            case None:
                return False
            case list():
                return self._lua.table_from([self._to_lua(each) for each in reply])
            case str():
                return self._lua.table_from({b"ok": reply.encode()})
            case _:
                return reply

    def _to_lua_json(self, value: object) -> object:
        match value:
            case str():
                return value.encode()
            case dict():
                pairs = {name.encode(): self._to_lua_json(each) for name, each in value.items()}
                return self._lua.table_from(pairs)
            case list():
                return self._lua.table_from([self._to_lua_json(each) for each in value])
            case _:
                return value


@functools.cache
def _lua() -> LuaRuntime:
    return LuaRuntime(encoding=None, register_eval=False, unpack_returned_tuples=True)


def _word(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return b"%.17g" % value


def _to_json(table: object) -> bytes:
    pairs = {name.decode(): _plain(each) for name, each in table.items()}
    return json.dumps(pairs, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _to_reply(value: object) -> object:
    """What a client is sent for what the script returned."""
    if lua_type(value) == "table":
        found: list[object] = []
        while (each := value[len(found) + 1]) is not None:
            found.append(_to_reply(each))
        return found
    match value:
        case bool():
            return 1 if value else None
        case int() | float():
            return int(value)
        case _:
            return value
