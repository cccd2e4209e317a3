"""Every limit of the product in one frozen dataclass; a test may read it, nothing may change it."""

from __future__ import annotations

from dataclasses import dataclass

KB = 1024
MB = 1024 * KB


@dataclass(frozen=True, slots=True)
class Limits:
    template_body_bytes: int = 16 * MB
    body_bytes: int = 1 * MB
    json_depth: int = 64
    blocks_per_template: int = 10_000
    text_bytes: int = 64 * KB
    block_id_chars: int = 200
    expression_bytes: int = 4 * KB
    expression_input_bytes: int = 256 * KB
    output_bytes: int = 256 * KB  # kept in the block's own row; larger ones are in blob storage
    blob_bytes: int = 8 * MB  # the most that one output may have
    question_bytes: int = 64 * KB  # what one question to a person may show
    patches_bytes: int = 64 * KB  # what people may change for one execution
    list_bytes: int = 8 * MB  # the outputs of all items of a `forEach` together
    inline_value_bytes: int = 16 * KB  # larger values are given by reference in an execution's JSON
    usecase_depth: int = 8
    agent_depth: int = 4  # agents with tools below each other, the one that a block calls among them
    recovery_points_kept: int = 200  # of one execution, automatic ones: the newest
    recovery_points_manual: int = 50  # of one execution, made by people
    recovery_point_s: int = 60  # of progress between two
    items_per_block: int = 10_000  # of one `forEach`
    items_per_execution: int = 100_000  # of all of them together
    concurrency_key_chars: int = 200
    holders_per_key: int = 10_000
    page_size: int = 50
    page_size_max: int = 500
    websocket_frame_bytes: int = 64 * KB
    idempotency_hours: int = 24
    event_days: int = 7  # how long events from outside are kept for blocks that begin to wait later
    event_name_chars: int = 200  # of an event's type, correlation and id
    lease_s: float = 30.0
    heartbeat_s: float = 10.0
    poison_crashes: int = 3  # a block that killed its worker this often goes to a person
    block_timeout_ms: int = 300_000
    approval_timeout_ms: int = 86_400_000
    callback_timeout_ms: int = 86_400_000
    max_parallel_blocks: int = 10
    attempts: int = 3


LIMITS = Limits()
