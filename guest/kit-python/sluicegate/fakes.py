"""A host for tests of functions. The goldens get their answers from tests/fakes.toml."""

from collections.abc import Callable, Mapping
from typing import Any

from .host import Sql, StatementError, pairs
from .types import Entry


class FakeHost:
    """
    Answers statements by functions, which get the parameters and return rows, or the number of rows changed. What the rules
    publish and count is kept.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, str] = {},
        statements: Mapping[str, Callable[..., Any]] = {},
        deliveries: Mapping[str, int] = {},
        lag: int | None = None,
    ) -> None:
        self.settings = settings
        self.statements = statements
        self.deliveries = deliveries
        self.known_lag = lag
        self.published: list[tuple[str, dict[str, str]]] = []
        self.samples: list[tuple[str, dict[str, str], float]] = []

    def setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def query(self, statement: str, *parameters: Any) -> Any:
        if statement not in self.statements:
            raise StatementError("not-granted", statement)
        return self.statements[statement](*(Sql.of(value).value for value in parameters))

    execute = query

    def lag(self) -> int | None:
        return self.known_lag

    def delivery_count(self, entry: Entry) -> int | None:
        return self.deliveries.get(str(entry.id), 1)

    def publish(self, stream: str, fields: Mapping[str, Any]) -> None:
        self.published.append((stream, dict(pairs(fields))))

    def count(self, name: str, labels: Mapping[str, Any] = {}, by: int = 1) -> None:
        self.samples.append((name, dict(pairs(labels)), by))

    def observe(self, name: str, value: float, labels: Mapping[str, Any] = {}) -> None:
        self.samples.append((name, dict(pairs(labels)), value))
