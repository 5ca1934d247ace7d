"""Chat and completion in the browser: streaming, stopping, settings, conversations, the key."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.server.page.conftest import MakeVisit, Visit

expect = pytest.importorskip("playwright.sync_api").expect

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def set_field(visit: Visit, label: str, value: str) -> None:
    visit.page.get_by_label(label, exact=True).fill(value)


def chats(visit: Visit) -> list[dict[str, Any]]:
    return [r.post_data_json for r in visit.requests if r.url.endswith("/chat/completions")]


def test_a_question_is_answered_with_its_timing(visit: Visit) -> None:
    answer = visit.ask("Who are you?")
    expect(answer.locator(".content")).to_contain_text("Windlass")
    expect(answer.locator(".stats")).to_have_text(
        re.compile(r"first token .* in all · \d+ tokens · prompt \d+")
    )
    expect(visit.page.locator("#status")).to_have_text("The answer is complete.")
    expect(visit.page.locator("#spoken")).to_contain_text("Windlass")
    [body] = chats(visit)
    assert body["stream"] is True
    assert body["model"] == "demo"
    assert body["messages"] == [{"role": "user", "content": "Who are you?"}]
    assert set(body) == {"model", "messages", "stream", "stream_options"}


def aborts(visit: Visit) -> float:
    return visit.server.metric("vllm:request_success_total", finished_reason="abort")


def make_long(route: Any) -> None:
    """Send a request on with what makes its answer long."""
    longer = {**route.request.post_data_json, "ignore_eos": True, "max_tokens": 900}
    route.continue_(post_data=longer)


def test_escape_stops_an_answer_and_the_engine_hears_of_it(visit: Visit) -> None:
    visit.page.route("**/v1/chat/completions", make_long)
    with visit.server.load(["Once upon a time"] * 3):
        before = aborts(visit)
        visit.page.get_by_label("Message", exact=True).fill("Tell me a story.")
        visit.page.keyboard.press("Enter")
        expect(visit.page.locator(".message.busy .content")).not_to_be_empty()
        visit.page.keyboard.press("Escape")
        expect(visit.answer().locator(".stats")).to_contain_text("ended by your stop")
        deadline = time.monotonic() + 30
        while aborts(visit) == before:
            assert time.monotonic() < deadline, "the engine did not hear of it"
    expect(visit.page.get_by_role("button", name="Send")).to_be_visible()
    expect(visit.page.locator(".message.assistant .content")).not_to_be_empty()


def test_settings_reach_the_request_and_are_honoured(visit: Visit) -> None:
    values = {
        "Temperature": ("temperature", 0.5),
        "Top p": ("top_p", 0.9),
        "Top k": ("top_k", 40),
        "Min p": ("min_p", 0.05),
        "Max tokens": ("max_tokens", 3),
        "Seed": ("seed", 7),
        "Presence penalty": ("presence_penalty", 0.5),
        "Frequency penalty": ("frequency_penalty", -0.5),
        "Repetition penalty": ("repetition_penalty", 1.05),
    }
    for label, (_, value) in values.items():
        set_field(visit, label, str(value))
    set_field(visit, "Stop strings, one a line", "END\nSTOP")
    set_field(visit, "System prompt", "Be short.")
    answer = visit.ask("Who are you?")
    expect(answer.locator(".stats")).to_contain_text("3 tokens")
    expect(answer.locator(".stats")).to_contain_text("ended by length")
    [body] = chats(visit)
    assert {name: body[name] for name, _ in values.values()} == dict(values.values())
    assert body["stop"] == ["END", "STOP"]
    assert body["messages"][0] == {"role": "system", "content": "Be short."}


def test_a_schema_and_tools_are_sent_as_openai_has_them(visit: Visit) -> None:
    bodies = visit.answer_with({"content": "{}"})
    set_field(visit, "JSON schema of the answer", '{"type": "object"}')
    set_field(visit, "Tools (JSON array)", json.dumps([WEATHER]))
    visit.ask("Now")
    assert bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }
    assert bodies[0]["tools"] == [WEATHER]


def test_an_answer_to_a_schema_satisfies_it_and_is_shown_as_it_is(visit: Visit) -> None:
    properties = {"a_*b*_c": {"enum": [1, 2]}, "d": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    schema["additionalProperties"] = False
    set_field(visit, "JSON schema of the answer", json.dumps(schema))
    answer = visit.ask("Choose.")
    text = answer.locator(".content").text_content() or ""
    value = json.loads(text)
    assert text == json.dumps(value, indent=2)
    assert set(value) == set(properties)
    assert value["a_*b*_c"] in (1, 2)


def test_the_reasoning_effort_is_sent_when_it_is_chosen(visit: Visit) -> None:
    bodies = visit.answer_with({"content": "Yes."})
    visit.page.get_by_label("Reasoning effort").select_option("low")
    visit.ask("Now")
    assert bodies[0]["reasoning_effort"] == "low"


def test_a_setting_that_is_wrong_is_named_and_nothing_is_sent(visit: Visit) -> None:
    visit.page.get_by_label("Message", exact=True).fill("Hello")
    for label, value in (("JSON schema of the answer", "{"), ("Temperature", "3")):
        set_field(visit, label, value)
        visit.page.get_by_label("Message", exact=True).press("Enter")
        expect(visit.page.locator("#notice")).to_contain_text(label)
        field = visit.page.get_by_label(label, exact=True)
        expect(field).to_have_attribute("aria-invalid", "true")
        field.fill("")
    assert chats(visit) == []
    expect(visit.page.get_by_label("Message", exact=True)).to_have_value("Hello")


def test_what_the_server_refuses_is_shown(visit_with: MakeVisit) -> None:
    visit = visit_with()
    answer = visit.ask("word " * 2000)
    expect(answer.locator(".error")).to_contain_text("1024")
    visit.ask("Who are you?")
    roles = [m["role"] for m in chats(visit)[-1]["messages"]]
    assert roles == ["user", "user"]


def test_an_answer_that_is_cut_off_says_so(visit: Visit) -> None:
    body = 'data: {"choices": [{"index": 0, "delta": {"content": "Half"}}]}\n\n'
    visit.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )
    answer = visit.ask("Hello")
    expect(answer.locator(".content")).to_have_text("Half")
    expect(answer.locator(".error")).to_contain_text("ended before the answer did")


def test_what_was_answered_so_far_survives_a_reload(visit: Visit) -> None:
    visit.page.route("**/v1/chat/completions", make_long)
    visit.page.get_by_label("Message", exact=True).fill("Tell me a story.")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator(".message.busy .content")).not_to_be_empty()
    visit.page.reload()
    expect(visit.page.locator(".message")).to_have_count(2)
    expect(visit.page.locator(".message.assistant .content")).not_to_be_empty()


def test_an_answer_is_made_again_and_a_question_is_edited(visit: Visit) -> None:
    visit.answer_with({"content": "first"})
    visit.ask("One")
    bodies = visit.answer_with({"content": "second"})
    visit.page.get_by_role("button", name="Regenerate").click()
    expect(visit.answer().locator(".content")).to_have_text("second")
    expect(visit.page.locator(".message")).to_have_count(2)
    visit.page.get_by_role("button", name="Edit").first.click()
    visit.page.get_by_label("Text of the message").fill("Two")
    visit.page.get_by_role("button", name="Save").click()
    visit.answer()
    assert [body["messages"] for body in bodies] == [
        [{"role": "user", "content": "One"}],
        [{"role": "user", "content": "Two"}],
    ]
    visit.page.get_by_role("button", name="Edit").last.click()
    visit.page.get_by_label("Text of the message").fill("*mine*")
    visit.page.get_by_role("button", name="Save").click()
    expect(visit.page.locator(".message.assistant em")).to_have_text("mine")
    assert len(bodies) == 2


def test_reasoning_is_collapsed_under_either_name(visit: Visit) -> None:
    for name in ("reasoning", "reasoning_content"):
        visit.answer_with({name: "Hmm, "}, {name: "well."}, {"content": "Yes."})
        answer = visit.ask("Really?")
        expect(answer.locator(".content").last).to_have_text("Yes.")
        inside = answer.locator("details .content")
        expect(inside).to_be_hidden()
        answer.get_by_text("Reasoning").click()
        expect(inside).to_have_text("Hmm, well.")


def test_a_tool_call_is_shown_and_its_result_is_sent(visit: Visit) -> None:
    call = {"index": 0, "id": "call-1", "function": {"name": "weather", "arguments": '{"city"'}}
    rest = {"index": 0, "function": {"arguments": ': "Ulm"}'}}
    visit.answer_with({"tool_calls": [call]}, {"tool_calls": [rest]}, finish="tool_calls")
    answer = visit.ask("Is it raining in Ulm?")
    expect(answer.locator(".tool-call code")).to_have_text("weather")
    expect(answer.locator(".tool-call pre")).to_have_text('{\n  "city": "Ulm"\n}')
    bodies = visit.answer_with({"content": "It rains."})
    visit.page.get_by_label("Result of weather").fill("rain")
    visit.page.get_by_role("button", name="Send results").click()
    expect(visit.answer().locator(".content")).to_have_text("It rains.")
    arguments = '{"city": "Ulm"}'
    assert bodies[0]["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call-1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": arguments},
                }
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "call-1"},
    ]


def test_conversations_are_kept_chosen_and_deleted(visit: Visit) -> None:
    visit.answer_with({"content": "fine"})
    visit.ask("The first one")
    visit.page.get_by_role("button", name="New conversation").click()
    expect(visit.page.locator(".message")).to_have_count(0)
    visit.ask("The second one")
    visit.page.reload()
    expect(visit.page.locator(".message.user .content")).to_have_text("The second one")
    visit.page.get_by_role("button", name="The first one", exact=True).click()
    expect(visit.page.locator(".message.user .content")).to_have_text("The first one")
    visit.page.get_by_role("button", name="Delete The first one").click()
    expect(visit.page.locator("#conversations li")).to_have_count(1)
    expect(visit.page.locator(".message")).to_have_count(0)


def test_a_conversation_goes_into_a_file_and_comes_back(visit: Visit, tmp_path: Path) -> None:
    visit.answer_with({"reasoning": "so"}, {"content": "**yes**"})
    set_field(visit, "System prompt", "Be kind.")
    set_field(visit, "Seed", "3")
    visit.ask("Is it?")
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "Is-it-.json"
    path = tmp_path / "conversation.json"
    download.value.save_as(path)
    visit.page.get_by_role("button", name="Delete Is it?").click()
    set_field(visit, "Seed", "")
    visit.page.get_by_label("Conversation file").set_input_files(path)
    expect(visit.page.locator(".message.assistant strong")).to_have_text("yes")
    expect(visit.page.get_by_label("System prompt")).to_have_value("Be kind.")
    expect(visit.page.get_by_label("Seed")).to_have_value("3")


NO_CONVERSATIONS = [
    ("no json", "not JSON"),
    ("[]", "not a conversation"),
    ('{"messages": 3}', "no list of messages"),
    ('{"messages": [{"role": "wizard", "content": "x"}]}', "Message 1"),
    ('{"messages": [{"role": "user", "content": {}}]}', "Message 1"),
    (json.dumps({"messages": [{"role": "user", "content": "x"}] * 1001}), "more than 1000"),
    (json.dumps({"messages": [], "pad": "x" * 2_000_000}), "too large"),
]


def test_a_file_is_accepted_up_to_the_limit_and_refused_beyond_it(
    visit: Visit, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    for content, says in NO_CONVERSATIONS:
        path.write_text(content)
        visit.page.get_by_label("Conversation file").set_input_files(path)
        expect(visit.page.locator("#notice")).to_contain_text(says)
    expect(visit.page.locator(".message")).to_have_count(0)
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "x"}] * 1000}))
    visit.page.get_by_label("Conversation file").set_input_files(path)
    expect(visit.page.locator(".message")).to_have_count(1000)
    expect(visit.page.locator("#notice")).to_be_hidden()


def test_old_conversations_make_room(visit: Visit) -> None:
    kept = visit.module(
        """
        const keep = (content, updated) => m.save(
          { ...m.newConversation(), messages: [{ role: "user", content }], updated });
        for (let i = 0; i < 60; i += 1) keep(`n${i}`, i);
        const many = m.load().map((c) => c.messages[0].content);
        const long = "x".repeat(m.LIMITS.characters / 2);
        for (let i = 0; i < 3; i += 1) keep(long, 100 + i);
        return [many.length, many[0], many.at(-1), m.load().length];
        """,
        "store.js",
    )
    assert kept == [50, "n59", "n10", 1]


def test_storage_that_holds_something_else_does_no_harm(visit: Visit) -> None:
    for value in ("no json", "3", '[{"messages": 1}, null, {"messages": []}]'):
        visit.page.evaluate("(v) => localStorage.setItem('windlass.conversations', v)", value)
        visit.page.reload()
        expect(visit.page.locator("#empty")).to_be_visible()


def test_without_a_key_the_page_asks_and_keeps_it_in_the_tab(visit_with: MakeVisit) -> None:
    visit = visit_with(key="")
    dialog = visit.page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key").fill("wrong")
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#notice")).to_contain_text("Incorrect API key")
    expect(dialog).to_be_visible()
    dialog.get_by_label("Key").fill("page-key")
    visit.page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    expect(visit.page.locator("#model")).to_have_value("demo")
    expect(visit.ask("Who are you?").locator(".content")).to_contain_text("Windlass")
    stored = visit.page.evaluate("[sessionStorage.getItem('windlass.key'), {...localStorage}]")
    assert stored[0] == "page-key"
    assert "page-key" not in json.dumps(stored[1])
    assert "page-key" not in visit.page.url


def test_a_completion_shows_how_probable_each_token_was(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Completion").click()
    set_field(visit, "Max tokens", "12")
    visit.page.get_by_role("button", name="Complete").click()
    expect(visit.page.locator("#text-stats")).to_contain_text("12 tokens")
    tokens = visit.page.locator(".lp")
    expect(tokens).to_have_count(12)
    tokens.nth(2).click()
    rows = visit.page.locator("#alternatives tr")
    assert 5 <= rows.count() <= 6
    expect(visit.page.locator("#alternatives tr.chosen")).to_have_count(1)
    before = visit.page.locator("#token-text").text_content()
    visit.page.keyboard.press("ArrowRight")
    expect(tokens.nth(3)).to_be_focused()
    expect(visit.page.locator("#token-text")).not_to_have_text(before or "")


def test_a_completion_without_probabilities_is_plain_text(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="Completion").click()
    visit.page.get_by_label("Alternatives per token").select_option("")
    visit.page.get_by_label("Repeat the prompt").check()
    set_field(visit, "Max tokens", "5")
    visit.page.get_by_role("button", name="Complete").click()
    expect(visit.page.locator("#text-stats")).to_contain_text("5 tokens")
    expect(visit.page.locator("#tokens")).to_contain_text("Once upon a time")
    assert visit.page.locator(".lp").count() == 0


def test_code_is_copied(visit_with: MakeVisit) -> None:
    visit = visit_with(permissions=["clipboard-read", "clipboard-write"])
    visit.answer_with({"content": "Run:\n```sh\necho 1\necho 2\n```\n"})
    visit.ask("How?")
    visit.page.get_by_role("button", name="Copy code").click()
    expect(visit.page.locator("#status")).to_have_text("Copied")
    assert visit.page.evaluate("navigator.clipboard.readText()") == "echo 1\necho 2"
    visit.check()
