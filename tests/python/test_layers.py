"""The layers of ARCHITECTURE.md: which crate may depend on what."""

import pathlib
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

ALLOWED = {
    "rdkafka": {"polybolos-kafka", "polybolos-ingest", "polybolos-embedded"},
    "scylla": {"polybolos-cassandra"},
    # Operators put state on disk that has no room in memory.
    "fjall": {"polybolos-embedded", "polybolos-operators"},
    "ballista-scheduler": {"polybolos-scheduler"},
    "ballista-executor": {"polybolos-executor"},
}
# Only a list that makes builds of one crate use the features of the whole.
EXEMPT = {"polybolos-unify"}
PURE = {"polybolos-streaming": {"polybolos-unify", "serde", "thiserror"}}


def packages():
    members = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["members"]
    for member in members:
        manifest = tomllib.loads((REPOSITORY / member / "Cargo.toml").read_text())
        yield manifest["package"]["name"], set(manifest.get("dependencies", {}))


def test_dependencies_point_downwards():
    seen = set()
    for name, dependencies in packages():
        seen.add(name)
        if name in EXEMPT:
            continue
        for dependency, allowed in ALLOWED.items():
            assert dependency not in dependencies or name in allowed, f"{name} must not depend on {dependency}"
        if name in PURE:
            assert dependencies <= PURE[name], f"{name} is pure"
    assert {"polybolos-streaming", "polybolos-cassandra", "polybolos-scheduler"} <= seen
