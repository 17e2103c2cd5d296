"""Best-worst pairs of a run's stored scores with DuckDB: `python best_worst.py 'DIR/run/data/scores/*/*.parquet' pairs.parquet`.

`cargo bench --profile dev --bench select -- DIR ANSWERS` makes the files and does the same with reflux. All columns of `pairs`
that come of the scores are written, by two threads. Among equal scores DuckDB takes any answer, where `select` goes by the id,
so the numbers of pairs and the sum of their margins compare, not the ids. `--ids` writes ids and margins only.
"""

import resource
import sys
import time

import duckdb

scores, pairs = sys.argv[1:3]
db = duckdb.connect()
db.sql("set threads = 2")
ids = """
    select prompt_id, arg_max(response_id, score) as chosen_id, arg_min(response_id, score) as rejected_id,
           (max(score) - min(score))::float as margin
    from 'SCORES' group by prompt_id having max(score) > min(score)"""
whole = """
    with best as (
        select prompt_id, any_value(prompt) as prompt, any_value(prompt_tokens) as prompt_tokens, any_value(model) as model,
               arg_max(ANSWER, score) as c, arg_min(ANSWER, score) as r, max(score) as high, min(score) as low
        from 'SCORES' group by prompt_id having max(score) > min(score))
    select prompt_id, [{'role': 'user', 'content': prompt}] as prompt,
           [{'role': 'assistant', 'content': c.text}] as chosen, [{'role': 'assistant', 'content': r.text}] as rejected,
           c.id as chosen_id, r.id as rejected_id, high as chosen_score, low as rejected_score, (high - low)::float as margin,
           prompt_tokens, c.tokens as chosen_tokens, r.tokens as rejected_tokens,
           c.logprobs as chosen_logprobs, r.logprobs as rejected_logprobs, model, null::float as consistency
    from best"""
answer = "{'id': response_id, 'text': response, 'tokens': response_tokens, 'logprobs': logprobs}"
query = (ids if "--ids" in sys.argv else whole).replace("ANSWER", answer).replace("SCORES", scores)
began = time.time()
db.sql(f"copy ({query}) to '{pairs}' (format parquet, compression zstd)")
took = time.time() - began
n, margins = db.sql(f"select count(*), sum(margin) from '{pairs}'").fetchall()[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(f"duckdb {duckdb.__version__}: {n} pairs (margins {margins:.1f}) in {took:.2f} s, peak memory {peak:.0f} MB")
