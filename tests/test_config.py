"""Every way a file can be wrong gives one `ConfigError` that names file, key and fix."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coe.config import AggregatorConfig, load_config
from coe.errors import ConfigError
from coe.experts import LitellmSpec, OpenAISpec, Price, ScriptedSpec, VllmLoraSpec, VllmSpec
from coe.reliability import UNGUARDED, BreakerRules, Reliability, RetryRules

EXPERT = "{id: a, engine: {kind: scripted, default: hi}}"


def _write(folder: Path, text: str) -> Path:
    file = folder / "experts.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return file


def test_minimal_file_gives_defaults(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path, f"experts: [{EXPERT}]"))
    assert config.pool.ids == ("a",)
    assert config.pool.experts[0].engine == ScriptedSpec(default="hi")
    assert config.router.scorer == "knn"
    assert config.router.artifact == (tmp_path / "router").resolve()
    assert config.encoder.kind == "static"


def test_full_expert_is_read(tmp_path: Path) -> None:
    config = load_config(
        _write(
            tmp_path,
            """
            experts:
              - id: org/model-7b
                description: d
                skills: [x, y]
                engine: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key_env: K}
                context_tokens: 100
                max_tokens: 50
                params_active_b: 7
                price: {usd_per_mtok_in: 1, usd_per_mtok_out: 2.5}
                footprint: {gib: 3.5, load_s: 4, watts: 5}
            fallback: org/model-7b
            router: {scorer: category, artifact: a/b, policy: {kind: top-k, k: 3}}
            """,
        )
    )
    expert = config.pool.expert("org/model-7b")
    assert expert.engine == OpenAISpec("http://127.0.0.1:1/v1", api_key_env="K")
    assert expert.price == Price(1.0, 2.5)
    assert expert.footprint.gib == 3.5
    assert expert.skills == ("x", "y")
    assert config.pool.fallback_id == "org/model-7b"
    assert (config.router.policy.kind, config.router.policy.k) == ("top-k", 3)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (f"experts: [{EXPERT}]\nrooter: {{}}", "rooter", ["unknown key 'rooter'", "'router'"]),
        (
            "experts: [{id: a, engin: {kind: scripted}}]",
            "experts[0].engin",
            ["'engine'?", "1 more"],
        ),
        ("experts: [{id: a}]", "experts[0].engine", ["is required and missing"]),
        (
            "experts: [{id: a, engine: {kind: scripted}, contxt_tokens: 9}]",
            "experts[0].contxt_tokens",
            ["'contxt_tokens'", "did you mean 'context_tokens'?"],
        ),
        (
            "experts: [{id: a, engine: {kind: scripted, anwsers: {}}}]",
            "experts[0].engine.anwsers",
            ["did you mean 'answers'?"],
        ),
        (
            "experts: [{id: a, engine: {kind: scripted}, price: {usd_per_mtok: 1}}]",
            "experts[0].price.usd_per_mtok",
            ["did you mean 'usd_per_mtok_"],
        ),
        (f"experts: [{EXPERT}, {EXPERT}]", "experts", ["duplicate expert id 'a'"]),
        ("experts: []", "experts", ["at least 1"]),
        ("fallback: x", "experts", ["is required and missing"]),
        (f"experts: [{EXPERT}]\nfallback: b", "fallback", ["no expert 'b'"]),
        ("experts: [{id: 7, engine: {kind: scripted}}]", "experts[0].id", ["string", "not 7"]),
        ("experts: [{id: a, engine: {kind: scriptd}}]", "experts[0].engine", ["'scripted'?"]),
        ("experts: [{id: a, engine: {}}]", "experts[0].engine", ["needs a `kind`"]),
        (
            "experts: [{id: a, engine: {kind: local, path: nowhere}}]",
            "experts[0].engine.path",
            ["no such file or folder", "nowhere"],
        ),
        (
            "experts: [{id: a, engine: {kind: scripted}, context_tokens: many}]",
            "experts[0].context_tokens",
            ["integer", "not 'many'"],
        ),
        (
            "experts: [{id: a, engine: {kind: scripted}, context_tokens: 10, max_tokens: 10}]",
            "experts[0].max_tokens",
            ["leaves no room"],
        ),
        (
            "experts: [{id: a, engine: {kind: openai, base_url: 'http://x/v1', api_key: s}}]",
            "experts[0].engine.api_key",
            ["environment variable", "api_key_env"],
        ),
        (f"experts: [{EXPERT}]\nexperts: [{EXPERT}]", None, ["given twice", "line 2"]),
        ("experts: [", None, ["not valid YAML", "line"]),
        ("- a", None, ["must be a mapping"]),
        ("", None, ["must be a mapping"]),
        (f"experts: [{EXPERT}]\nencoder: {{kind: endpoint}}", "encoder", ["base_url"]),
        (f"experts: [{EXPERT}]\nlocal_memory_gib: .inf", "local_memory_gib", ["finite"]),
        (f"experts: [{EXPERT}]\nrouter: {{artifact: '~no-such-user/x'}}", None, ["usable path"]),
        (
            f"experts: [{EXPERT}]\nrouter: {{aggregator: best}}",
            "router.aggregator.kind",
            ["'majority'"],
        ),
        (
            f"experts: [{EXPERT}]\nrouter: {{aggregator: llm}}",
            "router.aggregator.expert",
            ["needs the id"],
        ),
        (
            f"experts: [{EXPERT}]\nrouter: {{aggregator: {{kind: llm, expert: b}}}}",
            "router.aggregator.expert",
            ["no expert 'b'"],
        ),
        (
            f"experts: [{EXPERT}]\nrouter: {{aggregator: {{kind: chain, expert: a}}}}",
            "router.aggregator.expert",
            ["only kind 'llm'"],
        ),
        ("experts: [{id: coe, engine: {kind: scripted}}]", "experts[0].id", ["another id"]),
        (
            "experts: [{id: a, engine: {kind: openai, base_url: 'http://me:secret@x/v1'}}]",
            "experts[0].engine.base_url",
            ["api_key_env"],
        ),
        (
            f"experts: [{EXPERT}]\nencoder: {{kind: endpoint, model: m, "
            "base_url: 'http://:secret@x/v1'}",
            "encoder.base_url",
            ["api_key_env"],
        ),
        ("[" * 3000, None, ["nested too deeply"]),
    ],
)
def test_wrong_file_is_explained(
    tmp_path: Path, text: str, key: str | None, words: list[str]
) -> None:
    file = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.file == str(file)
    assert caught.value.key == key
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[abc",
        "http://me:secret@[abc/v1",
        "http://x:port/v1",
        "http://x:99999/v1",
        "http:///v1",
        "ftp://me:secret@x/v1",
        "me:secret@x/v1",
        "http://me:secret@x/v1",
        "http://secret@x/v1",
    ],
)
@pytest.mark.parametrize("place", ["experts[0].engine", "encoder"])
def test_address_that_cannot_be_asked_is_refused_and_not_repeated(
    tmp_path: Path, place: str, url: str
) -> None:
    expert, encoder = EXPERT, "{}"
    if place == "encoder":
        encoder = f"{{kind: endpoint, model: m, base_url: '{url}'}}"
    else:
        expert = f"{{id: a, engine: {{kind: openai, base_url: '{url}'}}}}"
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, f"experts: [{expert}]\nencoder: {encoder}"))
    assert caught.value.key == f"{place}.base_url"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://[::1]:8000/v1", "https://host.example/v1"])
def test_addresses_are_kept_as_they_are_written(tmp_path: Path, url: str) -> None:
    encoder = f"{{kind: endpoint, model: m, base_url: '{url}'}}"
    config = load_config(_write(tmp_path, f"experts: [{EXPERT}]\nencoder: {encoder}"))
    assert config.encoder.base_url == url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("weighted", AggregatorConfig("weighted")),
        ("{kind: chain, max_chars: 9}", AggregatorConfig("chain", None, 9)),
        ("{kind: llm, expert: a}", AggregatorConfig("llm", "a")),
    ],
)
def test_aggregator_is_a_name_or_a_mapping(
    tmp_path: Path, text: str, expected: AggregatorConfig
) -> None:
    file = _write(tmp_path, f"experts: [{EXPERT}]\nrouter: {{aggregator: {text}}}")
    assert load_config(file).router.aggregator == expected


def test_feedback_file_lies_beside_the_pools_file(tmp_path: Path) -> None:
    file = _write(tmp_path, f"experts: [{EXPERT}]\nrouter: {{feedback: heard.jsonl, failovers: 0}}")
    router = load_config(file).router
    assert (router.feedback, router.failovers) == (tmp_path / "heard.jsonl", 0)


def test_vllm_experts_are_read(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    text = """
experts:
  - id: base
    engine: {kind: vllm, model: org/model, flags: {max-model-len: 64, enable-lora: true}}
    footprint: {gib: 16, asleep_gib: 15}
    hosting: {devices: [gpu0, [gpu0, gpu1]], pinned: false, apart: [big]}
  - id: tuned
    engine: {kind: vllm-lora, base: base, path: adapter}
devices: {gpu0: 70, gpu1: 70}
host_memory_gib: 100
scheduling: {max_wait_s: 30}
"""
    config = load_config(_write(tmp_path, text))
    base, tuned = config.pool.experts
    assert isinstance(base.engine, VllmSpec)
    assert base.engine.flags == {"max-model-len": 64, "enable-lora": True}
    assert base.hosting.devices == (("gpu0",), ("gpu0", "gpu1"))
    assert tuned.engine == VllmLoraSpec("base", str(tmp_path / "adapter"))
    assert (config.devices, config.host_memory_gib) == ({"gpu0": 70, "gpu1": 70}, 100)
    assert config.scheduling.max_wait_s == 30
    assert config.state_dir == tmp_path / ".coe"


def test_litellm_experts_are_read(tmp_path: Path) -> None:
    text = "experts: [{id: a, engine: {kind: litellm, model: x/y, params: {drop_params: true}}}]"
    (expert,) = load_config(_write(tmp_path, text)).pool.experts
    assert expert.engine == LitellmSpec("x/y", params={"drop_params": True})


def test_the_cpus_budget_is_not_given_twice(tmp_path: Path) -> None:
    file = _write(tmp_path, f"experts: [{EXPERT}]\ndevices: {{cpu: 8}}")
    with pytest.raises(ConfigError, match=r"devices\.cpu.*local_memory_gib"):
        load_config(file)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="coe init"):
        load_config(tmp_path / "experts.yaml")


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["experts", "id", "engine", "kind", "path", "router", "x"]), inner
        )
    ),
    max_leaves=12,
)


@given(value=_YAML)
def test_any_yaml_is_read_or_explained(
    value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("any") / "experts.yaml"
    file.write_text(yaml.safe_dump(value, allow_unicode=True), encoding="utf-8")
    outcome = _load_or_complaint(file)
    assert isinstance(outcome, int) or str(file) in outcome


def _load_or_complaint(file: Path) -> int | str:
    """The size of the pool, or the complaint; anything else that is raised fails the test."""
    try:
        return len(load_config(file).pool)
    except ConfigError as error:
        return str(error)


def test_shipped_pool_is_the_rendered_template(repository: Path) -> None:
    from coe.zoo.pool import render_pool

    assert (repository / "experts.yaml").read_text("utf-8") == render_pool("coe/zoo")


def test_shipped_pool_loads(repository: Path) -> None:
    config = load_config(repository / "experts.yaml")
    assert len(config.pool) == 6
    assert config.pool.fallback_id == "generalist"


FAR = "id: {id}, engine: {{kind: openai, base_url: 'http://127.0.0.1:1/v1'}}"


def _reliability(folder: Path, expert: str = "", top: str = "") -> list[Reliability]:
    """What three experts have, of which the first says `expert`: remote, hosted and scripted."""
    remote, hosted = FAR.format(id="a"), FAR.format(id="b")
    scripted = "id: c, engine: {kind: scripted}"
    experts = f"[{{{remote}{expert}}}, {{{hosted}, footprint: {{gib: 1}}}}, {{{scripted}}}]"
    return [
        expert.reliability
        for expert in load_config(_write(folder, f"experts: {experts}\n{top}")).pool
    ]


def test_reliability_is_for_experts_that_others_host(tmp_path: Path) -> None:
    assert _reliability(tmp_path) == [Reliability(), UNGUARDED, UNGUARDED]
    top = "reliability: {retries: {max_retries: 5}, breaker: false}"
    assert _reliability(tmp_path, top=top) == [
        Reliability(RetryRules(max_retries=5), None),
        UNGUARDED,
        UNGUARDED,
    ]


def test_reliability_of_an_expert_changes_what_it_names(tmp_path: Path) -> None:
    top = "reliability: {retries: {longest_pause_s: 3}, breaker: {open_s: 1, longest_s: 9}}"
    own = ", reliability: {retries: {max_retries: 1}, breaker: {least_calls: 4}}"
    assert _reliability(tmp_path, own, top)[0] == Reliability(
        RetryRules(max_retries=1, longest_pause_s=3.0),
        BreakerRules(least_calls=4, open_s=1.0, longest_s=9.0),
    )
    off = ", reliability: {retries: false, breaker: {open_s: 2}}"
    assert _reliability(tmp_path, off, "reliability: {breaker: false}")[0] == Reliability(
        None, BreakerRules(open_s=2.0)
    )


@pytest.mark.parametrize(
    ("expert", "top", "key", "words"),
    [
        ("", "reliability: {retry: {}}", "reliability.retry", "did you mean 'retries'?"),
        (
            "",
            "reliability: {breaker: {open: 5}}",
            "reliability.breaker.open",
            "did you mean 'open_s'?",
        ),
        ("", "reliability: {breaker: }", "reliability.breaker", "write false"),
        ("", "reliability: {retries: true}", "reliability.retries", "valid dictionary"),
        ("", "reliability: {retries: {max_retries: -1}}", "reliability.retries.max_retries", "0"),
        ("", "reliability: {breaker: {open_s: 90}}", "reliability.breaker", "at most longest_s"),
        (
            ", reliability: {retries: {first_pause_s: 20}}",
            "",
            "experts[0].reliability.retries",
            "between 0 and longest_pause_s",
        ),
        (
            ", reliability: {retries: {budget_share: 0.5}}",
            "",
            "experts[0].reliability.retries.budget_share",
            "the whole pool's",
        ),
        ("", "trace: ''", "trace", "at least 1 character"),
    ],
)
def test_reliability_that_cannot_be_is_told_with_its_key(
    tmp_path: Path, expert: str, top: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _reliability(tmp_path, expert, top)
    assert caught.value.key == key
    assert words in str(caught.value)


def test_trace_is_beside_the_file_and_off_unless_named(tmp_path: Path) -> None:
    assert load_config(_write(tmp_path, f"experts: [{EXPERT}]")).trace is None
    named = load_config(_write(tmp_path, f"experts: [{EXPERT}]\ntrace: asked.jsonl"))
    assert named.trace == (tmp_path / "asked.jsonl").resolve()
