"""Best-worst pairs of stored scores with DuckDB: `python best_worst.py scores.parquet pairs.parquet [ROWS]`.

Makes the scores first where they are not there: ROWS answers (10,000,000 unless told), four to a prompt, which stand
together, with ids of 32 hex digits. Among equal scores DuckDB takes any answer, where `select` goes by the id, so only the
numbers of pairs and their margins compare; a prompt of one score gives no pair.
"""

import os
import resource
import sys
import time

import duckdb

scores, pairs = sys.argv[1:3]
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
db = duckdb.connect()
db.sql("set threads = 2")
if not os.path.exists(scores):
    db.sql(f"""copy (select md5('p' || i // 4) as prompt_id, md5('r' || i) as response_id,
                     (hash(i) % 16)::float / 3 as score from range({rows}) t(i) order by i)
               to '{scores}' (format parquet, row_group_size 65536)""")
began = time.time()
db.sql(f"""copy (
    select prompt_id, arg_max(response_id, score) as chosen_id, arg_min(response_id, score) as rejected_id,
           (max(score) - min(score))::float as margin
    from '{scores}' group by prompt_id having max(score) > min(score)) to '{pairs}' (format parquet)""")
took = time.time() - began
n = db.sql(f"select count(*) from '{pairs}'").fetchall()[0][0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(f"duckdb {duckdb.__version__}: {n} pairs in {took:.2f} s, peak memory {peak:.0f} MB")
