"""The engine's statements.

Every one runs after `GATE` in the same transaction, so one walker at a time moves a run.  Times are
`statement_timestamp()`: a statement that follows the gate starts after the lock was granted, so a
block never starts before its predecessors ended, while `now()` would be the moment before the wait.
Arrays of JSON travel as text and are cast, one `unnest` for any number of blocks.
"""

# The lock, as a statement of its own: what follows needs a snapshot taken after the lock is granted.
GATE = """
SELECT status, epoch, open_sinks, failed_blocks, ends_as, compensation, edits, decisions_of, rework,
       ready_idx, ready_iteration, patches
FROM executions_execution WHERE id = %(execution)s FOR NO KEY UPDATE
"""

# Settle blocks that completed plainly, close their edges, open what that decides and claim up to
# `want` of it.  A CTE sees one snapshot and may touch a row once, so open and claim are one UPDATE.
# Successors that need more than that (guards, people, no-ops, partial joins, a dead or failed edge)
# come back as 'decided'.  A block of `ids` that is not among 'done' was given to somebody else: its
# result is late.
#
# A row without an id is a block done ahead of its claim (module `ahead`).  Those count together or not
# at all: when all claims were still held and each is as the walker took it to be.  A block that must be
# claimed is, whatever `want` says.  Ends and beginnings are seconds before now.
#
# `traits` say of each edge's successor what is known of it, added up: 1 it is special, 2 a partial join,
# 4 fast, 8 to be claimed.  As arrays to be searched for each block they would make a wide fork quadratic;
# and without LIMIT 1 the planner, which expects few blocks in a run, would read them all to find some.
SETTLE_AND_CLAIM = """
WITH x AS (
  SELECT * FROM unnest(%(ids)s::bigint[], %(idxs)s::int[], %(attempts)s::int[], %(todos)s::int[],
                       %(outputs)s::text[], %(inputs)s::text[], %(agents)s::text[],
                       %(began)s::float8[], %(ended)s::float8[])
    WITH ORDINALITY AS x(pk, idx, attempt, todo, output, input, agent, began, ended, place)),
held AS (
  UPDATE executions_blockexecution b
  SET status = 'completed', output = x.output::jsonb, input = x.input::jsonb, error = NULL, reason = '',
      output_blob = NULL, input_blob = NULL,
      lease_owner = NULL, lease_expires_at = NULL,
      completed_at = greatest(statement_timestamp() - x.ended * interval '1 second', b.started_at)
  FROM x WHERE b.id = x.pk AND b.status = 'running' AND b.attempt = x.attempt
  RETURNING b.id, b.idx, b.block_id, b.attempt, b.started_at, b.completed_at, x.agent, x.place),
fresh AS (
  SELECT b.id, x.* FROM x CROSS JOIN LATERAL (
    SELECT * FROM executions_blockexecution b
    WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = x.idx AND b.iteration = 0
    LIMIT 1) b
  WHERE x.pk IS NULL AND b.status = 'blocked' AND b.attempt = 0 AND b.effect <> 'once'
    AND b.effect_seq = 0 AND b.todo = x.todo AND b.dead = 0 AND b.failed = 0),
ahead AS (
  UPDATE executions_blockexecution b
  SET status = 'completed', output = f.output::jsonb, input = f.input::jsonb, attempt = 1, todo = 0,
      started_at = statement_timestamp() - f.began * interval '1 second',
      completed_at = statement_timestamp() - f.ended * interval '1 second'
  FROM fresh f WHERE b.id = f.id
    AND (SELECT count(*) FROM held) + (SELECT count(*) FROM fresh) = cardinality(%(ids)s::bigint[])
  RETURNING b.id, b.idx, b.block_id, b.attempt, b.started_at, b.completed_at, f.agent, f.place),
done AS (SELECT *, false AS early FROM held UNION ALL SELECT *, true FROM ahead),
attempts AS (
  INSERT INTO executions_blockattempt (block_id, attempt, outcome, agent_id, started_at, ended_at)
  SELECT id, attempt, 'ok', agent, started_at, completed_at FROM done),
closing AS (
  SELECT e.succ, e.traits, count(*)::int AS closed
  FROM done d JOIN unnest(%(preds)s::int[], %(succs)s::int[], %(traits)s::int[]) AS e(pred, succ, traits)
    ON e.pred = d.idx
  WHERE NOT EXISTS (SELECT 1 FROM ahead a WHERE a.idx = e.succ) GROUP BY 1, 2),
near AS (
  SELECT b.id, b.idx, c.traits, c.closed, b.todo = c.closed AS over,
         b.todo = c.closed AND b.dead = 0 AND b.failed = 0 AND c.traits & 1 = 0 AS opens
  FROM closing c CROSS JOIN LATERAL (
    SELECT * FROM executions_blockexecution b
    WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = c.succ AND b.iteration = 0
    LIMIT 1) b
  WHERE b.status = 'blocked'),
fitting AS (
  SELECT *, opens AND traits & 8 > 0 AS must,
         opens AND traits & 8 = 0 AND (%(want)s = 1 OR traits & 4 > 0) AS fits
  FROM near),
ranked AS (SELECT *, count(*) FILTER (WHERE fits) OVER (ORDER BY idx) AS rank FROM fitting),
chosen AS (SELECT *, must OR (fits AND rank <= %(want)s) AS mine FROM ranked),
moved AS (
  UPDATE executions_blockexecution b
  SET todo = b.todo - c.closed,
      status = CASE WHEN NOT c.opens THEN b.status WHEN c.mine THEN 'running' ELSE 'ready' END,
      attempt = b.attempt + c.mine::int,
      lease_owner = CASE WHEN c.mine THEN %(walker)s::uuid END,
      lease_expires_at = CASE WHEN c.mine
                              THEN statement_timestamp() + %(lease)s * interval '1 second' END,
      started_at = CASE WHEN c.mine THEN statement_timestamp() END
  FROM chosen c WHERE b.id = c.id
  RETURNING b.id, b.idx, b.block_id, b.attempt, b.effect, b.effect_seq, b.crashes, b.status,
            b.tries_from, b.todo, b.dead, b.failed, c.over, c.opens, c.traits),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
         jsonb_build_object('status', status, 'attempt', attempt)
  FROM (SELECT place, 0 AS step, block_id, 'running' AS status, attempt FROM done WHERE early
        UNION ALL SELECT place, 1, block_id, 'completed', attempt FROM done
        UNION ALL SELECT 2147483647, idx, block_id, status, attempt FROM moved WHERE opens) AS e
  ORDER BY place, step),
counted AS (
  SELECT (SELECT count(*)::int FROM done WHERE idx = ANY(%(sinks)s::int[])) AS closed,
         (SELECT min(idx) FROM moved WHERE opens AND status = 'ready') AS opened),
sinks AS (
  UPDATE executions_execution
  SET open_sinks = open_sinks - c.closed, ready_idx = least(ready_idx, c.opened),
      ready_iteration = CASE WHEN c.opened <= coalesce(ready_idx, c.opened) THEN 0 ELSE ready_iteration END
  FROM counted c
  WHERE id = %(execution)s AND (c.closed > 0 OR c.opened <= coalesce(ready_idx, c.opened))
  RETURNING open_sinks)
SELECT CASE WHEN NOT opens THEN 'decided' WHEN status = 'running' THEN 'claim' ELSE 'ready' END,
       id, idx, attempt, effect, effect_seq, crashes, tries_from, todo, dead, failed
FROM moved WHERE over OR traits & 2 > 0
UNION ALL
SELECT CASE WHEN early THEN 'ahead' ELSE 'done' END, id, idx, attempt, '', 0, 0, 0, 0, 0, 0 FROM done
UNION ALL SELECT 'sinks', 0, open_sinks, 0, '', 0, 0, 0, 0, 0, 0 FROM sinks
"""

# Claim up to `want` of what is ready from a position of the plan on, among the next `window` rows, or all if
# it is null.  A walker that holds no place yet (`newcomer`) gets one only while fewer than `places` walkers
# are at work.  More than one block at once only of those known to be fast.  Of what is left only as much is
# counted as there are places.  `next` is the first that stays ready, or else the row behind the window: from
# there on the next turn looks, whosever it is.
CLAIM = """
WITH seen AS MATERIALIZED (
  SELECT id, idx, iteration, %(all_fast)s::bool OR idx = ANY(%(fast)s::int[]) AS fast,
         (number > %(window)s::int) IS TRUE AS beyond
  FROM (
    SELECT id, idx, iteration, status, available_at, row_number() OVER (ORDER BY idx, iteration) AS number
    FROM executions_blockexecution
    WHERE execution_id = %(execution)s AND epoch = %(epoch)s
      AND (idx, iteration) >= (%(from_idx)s::int, %(from_iteration)s::int)
    ORDER BY idx, iteration LIMIT %(window)s::int + 1) rows
  WHERE number > %(window)s::int
    OR (status = 'ready' AND (available_at IS NULL OR available_at <= statement_timestamp()))
  ORDER BY idx, iteration LIMIT %(enough)s::int),
near AS (SELECT * FROM seen WHERE NOT beyond),
tally AS (
  SELECT count(*)::int AS ready,
         CASE WHEN %(newcomer)s AND count(*) > 0 THEN (
           SELECT count(DISTINCT lease_owner)::int FROM executions_blockexecution
           WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'running') END AS walkers
  FROM near),
pick AS (
  (SELECT id FROM near WHERE fast ORDER BY idx, iteration LIMIT %(want)s)
  UNION ALL
  (SELECT id FROM near WHERE NOT EXISTS (SELECT 1 FROM near WHERE fast)
     ORDER BY idx, iteration LIMIT least(%(want)s, 1))),
moved AS (
  UPDATE executions_blockexecution b
  SET status = 'running', attempt = b.attempt + 1, lease_owner = %(walker)s::uuid, available_at = NULL,
      lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second',
      started_at = statement_timestamp()
  FROM pick, tally WHERE b.id = pick.id AND (NOT %(newcomer)s OR tally.walkers < %(places)s)
  RETURNING b.id, b.idx, b.block_id, b.attempt, b.effect, b.effect_seq, b.crashes, b.tries_from, b.iteration,
            b.round),
next AS MATERIALIZED (
  SELECT (SELECT ARRAY[idx, iteration] FROM seen
          WHERE NOT EXISTS (SELECT 1 FROM moved WHERE moved.id = seen.id)
          ORDER BY idx, iteration LIMIT 1) AS place),
noted AS (
  UPDATE executions_execution SET ready_idx = n.place[1], ready_iteration = n.place[2]
  FROM next n WHERE id = %(execution)s
    AND (ready_idx IS DISTINCT FROM n.place[1] OR ready_iteration IS DISTINCT FROM n.place[2])),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
         jsonb_strip_nulls(jsonb_build_object('status', 'running', 'attempt', attempt,
           'item', nullif(iteration, 0))) FROM moved)
SELECT id, idx, attempt, effect, effect_seq, crashes, tries_from, iteration, round, 0, 0 FROM moved
UNION ALL
SELECT 0, coalesce(place[1], -1), 0, '', 0, 0, 0, coalesce(place[2], 0), 0, ready, coalesce(walkers, 0)
FROM tally, next
"""

# Give claims back for which nobody was called, as if they had not been made.  Fenced by the walker too: the
# next claim of such a block has the same attempt.  Its patience is counted from the attempt's first wait.
HAND_BACK = """
WITH moved AS (
  UPDATE executions_blockexecution b
  SET status = 'waiting_external', reason = 'agent', attempt = b.attempt - 1, lease_owner = NULL,
      lease_expires_at = NULL,
      agent_until = coalesce(b.agent_until, statement_timestamp() + x.patience * interval '1 second'),
      available_at = coalesce(b.agent_until, statement_timestamp() + x.patience * interval '1 second')
  FROM unnest(%(ids)s::bigint[], %(attempts)s::int[], %(patience)s::float8[]) AS x(id, attempt, patience)
  WHERE b.id = x.id AND b.attempt = x.attempt AND b.status = 'running' AND b.lease_owner = %(walker)s::uuid
  RETURNING b.id, b.block_id, b.iteration, b.attempt),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
         jsonb_strip_nulls(jsonb_build_object('status', 'waiting_external', 'attempt', attempt,
           'reason', 'agent', 'item', nullif(iteration, 0))) FROM moved)
SELECT id FROM moved
"""

# The attempts that blocks waited for an agent to begin: from here they count as made.
COUNT_WAITED = """
UPDATE executions_blockexecution SET attempt = attempt + 1
WHERE id = ANY(%(ids)s::bigint[]) AND status = 'waiting_external' AND reason IN ('agent', 'tool_agent')
"""

# What a walker holds; all that it brought back is settled by now.
HELD = """
SELECT id, idx, attempt, effect, effect_seq, crashes, tries_from, iteration, round
FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'running'
  AND lease_owner = %(walker)s::uuid AND NOT id = ANY(%(taken)s::bigint[])
ORDER BY idx, iteration
"""

# The general form of a settle: any status, fenced by the status it leaves and, for a walker's, the attempt.
_MOVED = """
WITH x AS (
  SELECT * FROM unnest(%(ids)s::bigint[], %(attempts)s::int[], %(statuses)s::text[], %(outputs)s::text[],
      %(inputs)s::text[], %(errors)s::text[], %(reasons)s::text[], %(choices)s::text[], %(delays)s::float8[],
      %(endings)s::text[], %(agents)s::text[], %(afresh)s::bool[], %(again)s::bool[], %(items)s::int[],
      %(output_blobs)s::uuid[], %(input_blobs)s::uuid[], %(usages)s::text[],
      %(injections)s::text[])
    AS x(id, attempt, status, output, input, error, reason, choice, delay, ended, agent, afresh, again,
         items, output_blob, input_blob, usage, injected)),
moved AS (
  UPDATE executions_blockexecution b
  SET status = x.status, output = x.output::jsonb, output_blob = x.output_blob,
      input = CASE WHEN x.input_blob IS NULL THEN coalesce(x.input::jsonb, b.input) END,
      input_blob = CASE WHEN x.input IS NULL THEN coalesce(x.input_blob, b.input_blob) END,
      error = x.error::jsonb, reason = x.reason, choice = x.choice::jsonb,
      available_at = statement_timestamp() + x.delay * interval '1 second',
      lease_owner = NULL, lease_expires_at = NULL,
      agent_until = CASE WHEN b.status = 'waiting_external' AND x.ended = '' THEN b.agent_until END,
      crashes = CASE WHEN x.afresh THEN 0 ELSE b.crashes + (x.ended = 'rescued')::int END,
      tries_from = CASE WHEN x.afresh THEN b.attempt
                        ELSE b.tries_from + (x.reason IN ('circuit_open', 'budget', 'budget_day')
                                             AND x.status IN ('ready', 'waiting_human'))::int END,
      round = b.round + x.again::int, effect_seq = b.effect_seq + x.again::int,
      todo = coalesce(x.items, b.todo),
      started_at = CASE WHEN x.status = 'ready' THEN b.started_at
                        ELSE coalesce(b.started_at, statement_timestamp()) END,
      completed_at = CASE WHEN x.status IN ('completed', 'failed', 'skipped', 'cancelled')
                          THEN statement_timestamp() END
  FROM x WHERE b.id = x.id AND b.status = ANY(%(leaving)s::text[])
    AND (x.attempt IS NULL OR b.attempt = x.attempt)
  RETURNING b.id, b.block_id, b.iteration, b.attempt, b.status, b.reason, b.started_at,
            x.error, x.ended, x.agent, x.delay, x.usage, x.injected),
attempts AS (
  INSERT INTO executions_blockattempt
    (block_id, attempt, outcome, agent_id, failure, usage, injected, started_at, ended_at)
  SELECT id, attempt, ended, agent, CASE WHEN ended <> 'ok' THEN error::jsonb END, usage::jsonb,
         injected::jsonb, started_at, statement_timestamp()
  FROM moved WHERE ended <> ''),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed',
         CASE WHEN status = 'failed' THEN 40 WHEN error IS NOT NULL THEN 30 ELSE 20 END,
         jsonb_strip_nulls(jsonb_build_object('status', status, 'attempt', attempt,
           'reason', nullif(reason, ''), 'item', nullif(iteration, 0),
           'error', error::jsonb - 'evidence', 'delaySeconds', delay, 'injected', injected::jsonb))
  FROM moved)"""

MOVE = f"{_MOVED}\nSELECT id, attempt FROM moved"

# What was spent, added to the day of its agent where it or the workspace has a budget of a day.  Rows are
# locked in one order; a provider's word is believed up to a bound, so that no sum can overflow.
_COUNTED = """
units AS (
  SELECT s.agent, s.again, u.unit, least(u.amount, 1e15) AS amount FROM spent s CROSS JOIN LATERAL (
    SELECT 'tokens' AS unit, coalesce((s.usage->>'inputTokens')::numeric, 0)
                             + coalesce((s.usage->>'outputTokens')::numeric, 0) AS amount
    UNION ALL SELECT c.key, c.value::numeric FROM jsonb_each_text(coalesce(s.usage->'cost', '{}')) c) u
  WHERE u.amount > 0),
counted AS (
  INSERT INTO executions_dayspending AS d (workspace_id, day, agent_id, again, unit, amount)
  SELECT %(workspace)s::uuid, (statement_timestamp() AT TIME ZONE 'UTC')::date, u.agent, u.again, u.unit,
    sum(u.amount)
  FROM units u
  WHERE NOT u.again AND EXISTS (
      SELECT 1 FROM governance_workspace w WHERE w.id = %(workspace)s AND w.budget <> '{}')
    OR EXISTS (SELECT 1 FROM agents_agent g
                WHERE g.workspace_id = %(workspace)s AND g.agent_id = u.agent AND g.budget <> '{}')
  GROUP BY u.agent, u.again, u.unit ORDER BY u.agent, u.again, u.unit
  ON CONFLICT (workspace_id, day, agent_id, again, unit) DO UPDATE SET amount = d.amount + excluded.amount)
"""

# MOVE where an attempt used something up.  What its steps used was counted as they ended.
MOVE_AND_COUNT = f"""{_MOVED},
spent AS (
  SELECT m.agent, false AS again, m.usage::jsonb AS usage FROM moved m
  WHERE m.usage IS NOT NULL AND m.ended <> '' AND NOT EXISTS (
    SELECT 1 FROM executions_agentstep s
    WHERE s.block_id = m.id AND s.attempt = m.attempt AND s.usage IS NOT NULL)),
{_COUNTED}
SELECT id, attempt FROM moved
"""

# What came of a step of an agent.  A repeat finds it ended, and counts nothing.
STEP_ENDED = """
UPDATE executions_agentstep
SET status = %(status)s, name = %(name)s, result = %(result)s::jsonb, usage = %(usage)s::jsonb,
    failure = %(failure)s::jsonb, seconds = %(seconds)s, ended_at = statement_timestamp(),
    uncounted = uncounted OR (status = 'begun' AND %(called)s)
WHERE operation = %(operation)s AND number = %(number)s AND attempt = %(attempt)s AND block_id = %(block)s
  AND status IN ('begun', %(status)s)
RETURNING number"""

STEP_ENDED_AND_COUNT = f"""
WITH was AS (
  SELECT status FROM executions_agentstep WHERE operation = %(operation)s AND number = %(number)s),
ended AS ({STEP_ENDED}),
spent AS (
  SELECT a.agent, a.again, %(usage)s::jsonb AS usage FROM ended, was, (
    SELECT %(agent)s::text AS agent, false AS again
    UNION ALL SELECT unnest(%(beside)s::text[]), true) a
  WHERE was.status = 'begun'),
{_COUNTED}
SELECT number FROM ended
"""

CHOSEN_AGENTS = """
SELECT block_id, attempt, agent_id FROM executions_routingreceipt WHERE block_id = ANY(%(ids)s::bigint[])
"""

# Close edges: count down, and return the blocks that have none open any more.
CLOSE = """
UPDATE executions_blockexecution b
SET todo = b.todo - x.closed, dead = b.dead + x.dead, failed = b.failed + x.failed
FROM unnest(%(idxs)s::int[], %(closed)s::int[], %(dead)s::int[], %(failed)s::int[])
  AS x(idx, closed, dead, failed)
CROSS JOIN LATERAL (
  SELECT id FROM executions_blockexecution
  WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = x.idx AND iteration = 0 LIMIT 1) o
WHERE b.id = o.id
RETURNING b.id, b.idx, b.todo, b.dead, b.failed, b.status
"""

# The first walker has come.  Gives the blocks whose opening is still to be decided, as UNDECIDED.
BEGIN = """
WITH begun AS (
  UPDATE executions_execution
  SET status = 'running', started_at = coalesce(started_at, statement_timestamp())
  WHERE id = %(execution)s RETURNING workspace_id),
event AS (
  INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
  SELECT workspace_id, %(execution)s, 'execution_changed', 20, '{"status": "running"}' FROM begun)
SELECT id, idx, todo, dead, failed FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'blocked'
  AND (todo = 0 OR idx = ANY(%(partial)s::int[])) ORDER BY idx
"""

# Blocks whose opening is still to be decided: the roots of a new run, or what a pause left undecided.
UNDECIDED = """
SELECT id, idx, todo, dead, failed FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'blocked'
  AND (todo = 0 OR idx = ANY(%(partial)s::int[])) ORDER BY idx
"""

# Partial joins that wait for no edge any more.
DECIDED_JOINS = """
SELECT idx FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(partial)s::int[]) AND iteration = 0
  AND status <> 'blocked'
"""

OUTPUTS = """
SELECT idx, status, CASE WHEN edit IS NULL THEN output ELSE edit -> 'output' END,
       CASE WHEN edit IS NULL THEN output_blob END
FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[]) AND iteration = 0
"""

# Of these blocks, those that completed in this run: what a fork took over is its source's to undo.
COMPLETED = """
SELECT b.idx FROM executions_blockexecution b LEFT JOIN executions_blockexecution o ON o.id = b.carried_from
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.iteration = 0 AND b.status = 'completed'
  AND b.idx = ANY(%(idxs)s::int[]) AND (b.carried_from IS NULL OR o.execution_id = b.execution_id)
"""

RUNNING = """
SELECT 1 FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND status = 'running' LIMIT 1
"""

# Children that this epoch's blocks began and that have not ended.
OPEN_CHILDREN = """
SELECT 1 FROM executions_blockexecution b JOIN executions_execution c
  ON c.parent_block_id = b.id AND c.parent_attempt = b.attempt AND c.completed_at IS NULL
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s LIMIT 1
"""

# The key of a compensation's effect follows that of the effect that it undoes: one that is compensated
# again without having been done again is the same call to its provider.
ADD_COMPENSATIONS = """
WITH added AS (
  INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, block_id, status, todo, dead,
      failed, attempt, crashes, tries_from, round, effect, effect_seq, reason)
  SELECT b.execution_id, b.epoch, x.idx, 0, x.block_id, CASE WHEN x.ready THEN 'ready' ELSE 'blocked' END,
      0, 0, 0, 0, 0, 0, 0, x.effect, b.effect_seq, ''
  FROM unnest(%(idxs)s::int[], %(undone)s::int[], %(block_ids)s::text[], %(readies)s::bool[],
              %(effects)s::text[]) AS x(idx, undone, block_id, ready, effect)
  JOIN executions_blockexecution b
    ON b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = x.undone AND b.iteration = 0
  RETURNING block_id, status)
INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
       jsonb_build_object('status', status, 'attempt', 0, 'reason', 'compensation') FROM added
"""

COMPENSATIONS = """
SELECT id, idx, status FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx >= %(first)s ORDER BY id
"""

# Everything that waits is cancelled at once, with the attempt whose answer (a child's end) it waits for;
# what runs is stopped by its worker.
CANCEL_WAITING = """
WITH waiting AS (
  SELECT id, attempt, status = 'waiting_external' AND reason IN ('child', 'callback') AS called, started_at
  FROM executions_blockexecution
  WHERE execution_id = %(execution)s AND epoch = %(epoch)s
    AND status IN ('blocked', 'ready', 'waiting_human', 'waiting_external')),
moved AS (
  UPDATE executions_blockexecution b
  SET status = 'cancelled', reason = %(reason)s, completed_at = statement_timestamp(),
      started_at = coalesce(b.started_at, statement_timestamp()), available_at = NULL
  FROM waiting w WHERE b.id = w.id
  RETURNING b.block_id, b.iteration, b.attempt),
attempts AS (
  INSERT INTO executions_blockattempt (block_id, attempt, outcome, agent_id, started_at, ended_at)
  SELECT id, attempt, 'cancelled', '', started_at, statement_timestamp() FROM waiting WHERE called),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
         jsonb_strip_nulls(jsonb_build_object('status', 'cancelled', 'attempt', attempt,
           'reason', %(reason)s::text, 'item', nullif(iteration, 0))) FROM moved)
SELECT count(*) FROM moved
"""

# Blocks that work for nothing any more: what they waited for is withdrawn, a call in flight is stopped
# by its worker, and its result will be late.  Of the items of a `forEach` alone with `first` 1.
CANCEL_LOSERS = """
WITH lost AS (
  SELECT id, attempt, status = 'waiting_external' AS waiting, started_at,
         status = 'running' OR (status = 'waiting_external' AND reason IN ('child', 'callback')) AS called
  FROM executions_blockexecution
  WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = ANY(%(idxs)s::int[])
    AND iteration >= %(first)s
    AND status IN ('blocked', 'ready', 'running', 'waiting_human', 'waiting_external')),
moved AS (
  UPDATE executions_blockexecution b
  SET status = 'cancelled', reason = %(reason)s, completed_at = statement_timestamp(), lease_owner = NULL,
      lease_expires_at = NULL, started_at = coalesce(b.started_at, statement_timestamp()), available_at = NULL
  FROM lost WHERE b.id = lost.id
  RETURNING b.id, b.block_id, b.iteration, b.attempt),
attempts AS (
  INSERT INTO executions_blockattempt (block_id, attempt, outcome, agent_id, started_at, ended_at)
  SELECT id, attempt, 'cancelled', '', started_at, statement_timestamp() FROM lost WHERE called),
events AS (
  INSERT INTO events_event (workspace_id, execution_id, block_id, type, level, payload)
  SELECT %(workspace)s, %(execution)s, block_id, 'block_changed', 20,
         jsonb_strip_nulls(jsonb_build_object('status', 'cancelled', 'attempt', attempt,
           'reason', %(reason)s::text, 'item', nullif(iteration, 0))) FROM moved)
SELECT m.id, c.id FROM moved m JOIN lost l ON l.id = m.id
LEFT JOIN executions_execution c
  ON l.waiting AND c.parent_block_id = m.id AND c.parent_attempt = m.attempt AND c.completed_at IS NULL
"""

# The rows of a `forEach`: the first `open` may be claimed (or are asked about), the rest wait their turn.
# After a restart an item whose effect happened before gets a new key; one whose outcome is unknown keeps it.
ADD_ITEMS = """
INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, item, block_id, status, todo,
    dead, failed, attempt, crashes, tries_from, round, effect, effect_seq, reason)
SELECT b.execution_id, b.epoch, b.idx, x.number, x.item::jsonb, b.block_id,
    CASE WHEN x.number <= %(open)s THEN 'ready' ELSE 'blocked' END, 1, 0, 0, 0, 0, 0, 0, b.effect,
    CASE WHEN b.epoch = 1 THEN 0 ELSE greatest(b.effect_seq, coalesce(
      (SELECT max(p.effect_seq + (p.status = 'completed')::int) FROM executions_blockexecution p
       WHERE p.execution_id = b.execution_id AND p.epoch < b.epoch AND p.idx = b.idx
         AND p.iteration = x.number), 0)) END, ''
FROM executions_blockexecution b, unnest(%(items)s::text[]) WITH ORDINALITY AS x(item, number)
WHERE b.id = %(block)s
"""

ITEMS_IN_ALL = """
SELECT count(*) FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND iteration > 0
"""

# Items that settled make room for as many that wait, and are counted on their block.
ITEMS_SETTLED = """
UPDATE executions_blockexecution SET todo = todo - %(settled)s
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration = 0
RETURNING id, todo, status
"""

# Whether as many items completed as are wanted.  They are counted only once as many have settled.
ITEMS_ENOUGH = """
SELECT CASE WHEN (
    SELECT max(iteration) FROM executions_blockexecution
    WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s) - %(left)s >= %(wanted)s
  THEN (
    SELECT count(*) FROM executions_blockexecution
    WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration > 0
      AND status = 'completed') >= %(wanted)s
  ELSE false END
"""

ITEMS_BEGUN = """
SELECT count(*)::int FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration > 0
  AND status IN ('ready', 'running', 'waiting_human', 'waiting_external')
"""

# Items begin in their order: all that wait come behind any that has begun.
NEXT_ITEMS = """
SELECT id, iteration, item FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration > %(behind)s
  AND status = 'blocked' ORDER BY iteration LIMIT %(room)s
"""

# From where on blocks have become ready that nobody has taken yet.
LEFT_READY = """
UPDATE executions_execution SET ready_idx = %(ready_idx)s, ready_iteration = %(ready_iteration)s
WHERE id = %(execution)s
"""

ITEM_RESULTS = """
SELECT status, output, output_blob FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration > 0
ORDER BY iteration
"""

# A `forEach` whose items have all settled while it could not put their outputs together.
ITEMS_DONE = """
SELECT id FROM executions_blockexecution
WHERE execution_id = %(execution)s AND epoch = %(epoch)s AND idx = %(idx)s AND iteration = 0
  AND status = 'waiting_external' AND reason = 'items' AND todo = 0
"""

EXECUTION_EVENT = """
INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
VALUES (%(workspace)s, %(execution)s, 'execution_changed', %(level)s, %(payload)s::jsonb)
"""

FINISH = """
WITH ended AS (
  UPDATE executions_execution
  SET status = %(status)s, completed_at = statement_timestamp(), ends_as = '',
      error = coalesce(%(error)s::jsonb, error),
      started_at = coalesce(started_at, statement_timestamp())
  WHERE id = %(execution)s RETURNING workspace_id),
timer AS (DELETE FROM executions_timer WHERE key = 'check:' || %(execution)s::text)
INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
SELECT workspace_id, %(execution)s::uuid, 'execution_changed', %(level)s, %(payload)s::jsonb FROM ended
"""

# The clock restarts the run from a recovery point, once it has ended.
GO_BACK = """
INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
VALUES ('recovery', %(timer)s, %(execution)s, statement_timestamp(), %(epoch)s, %(point)s)
ON CONFLICT (key) DO UPDATE SET due_at = excluded.due_at, tries = excluded.tries, progress = excluded.progress
"""

# A result that came after its block was given to another.  A retried transaction whose first commit
# went through brings a result that is recorded already: that one is not late.
LATE = """
INSERT INTO executions_lateresult (block_id, attempt, output, output_blob, failure, at)
SELECT x.id, x.attempt, x.output::jsonb, x.output_blob, x.failure::jsonb, statement_timestamp()
FROM unnest(%(ids)s::bigint[], %(attempts)s::int[], %(outputs)s::text[], %(failures)s::text[],
            %(endings)s::text[], %(output_blobs)s::uuid[])
  AS x(id, attempt, output, failure, ended, output_blob)
WHERE NOT EXISTS (SELECT 1 FROM executions_blockattempt a
                  WHERE a.block_id = x.id AND a.attempt = x.attempt AND a.outcome = x.ended)
RETURNING block_id, attempt
"""

# The sub-workflow that a step of an agent has started, in the transaction that starts it.
CHILD_OF_STEP = """
UPDATE executions_agentstep SET request = request || jsonb_build_object('executionId', %(child)s::text)
WHERE block_id = %(block)s AND attempt = %(attempt)s AND operation || ':step:' || number = %(step)s
  AND status = 'begun'
"""

# Bring the next look at a run forward, never back.
LOOK_AGAIN = """
UPDATE executions_timer SET due_at = least(due_at, statement_timestamp() + %(seconds)s * interval '1 second')
WHERE key = %(timer)s
"""

# Two runs that change at once may tell each other: a row of its own waits for no lock of the other's.
NEWS = """
INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
VALUES ('news', %(timer)s, %(other)s, statement_timestamp(), 0, 0) ON CONFLICT (key) DO NOTHING
"""

HEARTBEAT = """
UPDATE executions_blockexecution b
SET lease_expires_at = statement_timestamp() + %(lease)s * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(attempts)s::int[]) AS x(id, attempt)
WHERE b.id = x.id AND b.attempt = x.attempt AND b.status = 'running' RETURNING b.id
"""

# Nothing is written where the version was deleted meanwhile; else it is kept from that until this commits.
START = """
WITH version AS MATERIALIZED (
  SELECT id FROM templates_app_templateversion WHERE id = %(version)s FOR KEY SHARE),
execution AS (
  INSERT INTO executions_execution (id, workspace_id, template_version_id, status, epoch, input, input_blobs,
      simulation, max_parallel, open_sinks, failed_blocks, ends_as, parent_block_id, parent_attempt, depth,
      root, created_by_id, durability, faults_id, created_at, deadline_at)
  SELECT %(execution)s::uuid, %(workspace)s::uuid, version.id, 'pending', 1, %(input)s::jsonb,
      %(input_blobs)s::jsonb, %(simulation)s::jsonb, %(max_parallel)s::int, %(open_sinks)s::int, 0, '',
      %(parent_block)s::bigint, %(parent_attempt)s::int, %(depth)s::smallint, %(root)s::uuid,
      %(created_by)s::bigint, %(durability)s::text,
      (SELECT f.id FROM executions_faultinjection f
       JOIN governance_workspace w ON w.id = f.workspace_id AND w.environment <> 'production'
       WHERE f.workspace_id = %(workspace)s::uuid AND f.ended_at IS NULL
         AND f.ends_at > statement_timestamp()),
      statement_timestamp(),
      statement_timestamp() + %(timeout_ms)s::float8 * interval '1 millisecond'
  FROM version),
blocks AS (
  INSERT INTO executions_blockexecution (execution_id, epoch, idx, iteration, block_id, status, todo, dead,
      failed, attempt, crashes, tries_from, round, effect, effect_seq, reason)
  SELECT %(execution)s::uuid, 1, x.idx - 1, 0, x.block_id,
      CASE WHEN x.ready THEN 'ready' ELSE 'blocked' END, x.todo, 0, 0, 0, 0, 0, 0, x.effect, 0, ''
  FROM version, unnest(%(block_ids)s::text[], %(todos)s::int[], %(readies)s::bool[], %(effects)s::text[])
    WITH ORDINALITY AS x(block_id, todo, ready, effect, idx)),
timer AS (
  INSERT INTO executions_timer (kind, key, execution_id, due_at, tries, progress)
  SELECT 'check', %(timer)s::text, %(execution)s::uuid, statement_timestamp() + interval '5 seconds', 0, 0
  FROM version)
INSERT INTO events_event (workspace_id, execution_id, type, level, payload)
SELECT %(workspace)s::uuid, %(execution)s::uuid, 'execution_changed', 20, %(payload)s::jsonb FROM version
"""

# A block waits for an event.  One that got its event and could not go on keeps it.
AWAIT_EVENT = """
INSERT INTO executions_eventwait (block_id, execution_id, epoch, workspace_id, type, correlation)
VALUES (%(block)s, %(execution)s, %(epoch)s, %(workspace)s, %(type)s, %(correlation)s)
ON CONFLICT (block_id) DO UPDATE SET type = excluded.type, correlation = excluded.correlation
"""

# Blocks that wait for events, each with what it got before, if it did.
EVENT_WAITS = """
SELECT b.id, b.idx, w.id, w.type, w.correlation, w.event FROM executions_eventwait w
JOIN executions_blockexecution b ON b.id = w.block_id
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.status = 'waiting_external'
  AND b.reason = 'event' ORDER BY b.idx
"""

# The earliest event since the run was accepted that none of its blocks took in this epoch, or before
# it was carried into this one.
TAKE_EVENT = """
WITH found AS (
  SELECT r.* FROM events_receivedevent r
  WHERE r.workspace_id = %(workspace)s AND r.type = %(type)s AND r.correlation = %(correlation)s
    AND r.at >= (SELECT created_at FROM executions_execution WHERE id = %(execution)s)
    AND NOT EXISTS (SELECT 1 FROM executions_eventwait w WHERE w.execution_id = %(execution)s
                    AND w.received = r.id
                    AND (w.epoch = %(epoch)s OR EXISTS (
                      SELECT 1 FROM executions_blockexecution b WHERE b.execution_id = %(execution)s
                      AND b.epoch = %(epoch)s AND b.carried_from = w.block_id)))
  ORDER BY r.at, r.id LIMIT 1)
UPDATE executions_eventwait w SET received = found.id,
  event = jsonb_build_object('eventId', found.event_id, 'type', found.type, 'correlation', found.correlation,
                             'payload', found.payload, 'at', found.at)
FROM found WHERE w.id = %(wait)s RETURNING w.event
"""

EVENTS_TAKEN = """
SELECT b.idx, w.event FROM executions_eventwait w JOIN executions_blockexecution b ON b.id = w.block_id
WHERE b.execution_id = %(execution)s AND b.epoch = %(epoch)s AND b.idx = ANY(%(idxs)s::int[])
"""

_ANSWERS = """
SELECT b.status, c.attempt, c.output, c.failure, c.usage, b.id, b.idx, b.attempt, b.effect, b.effect_seq,
       b.crashes, b.tries_from, b.iteration, b.round
FROM executions_callbackanswer c JOIN executions_blockexecution b ON b.id = c.block_id
"""

# Results that callbacks brought to blocks whose calls have just ended.
BROUGHT_MEANWHILE = f"""{_ANSWERS}
WHERE c.block_id = ANY(%(ids)s::bigint[]) AND NOT c.late AND b.epoch = %(epoch)s AND b.status = 'running'
ORDER BY b.id, c.attempt
"""

# The same for blocks that wait for one, or whose worker vanished after the call.
CALLBACK_ANSWERS = f"""{_ANSWERS}
WHERE c.execution_id = %(execution)s AND NOT c.late AND b.epoch = %(epoch)s
  AND (b.status = 'waiting_external' AND b.reason = 'callback'
       OR b.status = 'running' AND b.lease_expires_at < statement_timestamp())
ORDER BY b.id, c.attempt
"""
