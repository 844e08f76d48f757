"""SQL that must not get at anything, and what a folder holds, by its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprints(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


READS_ELSEWHERE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '{outside}/secret.parquet'",
    "FROM read_parquet('{outside}/secret.parquet')",
    "FROM read_parquet('{store}/../secret.parquet')",
    "FROM read_text('/etc/passwd')",
    "FROM read_blob('/proc/self/environ')",
    "FROM read_json('{outside}/secret.json')",
    "FROM glob('/etc/*')",
    "FROM glob('{outside}/*')",
    "FROM sniff_csv('/etc/passwd')",
    "FROM parquet_metadata('{outside}/secret.parquet')",
    "FROM read_parquet('{store}-twin/*.parquet')",
    "FROM read_parquet('http://127.0.0.1:9/x.parquet')",
    "FROM read_parquet('s3://bucket/x.parquet')",
    "FROM duckdb_secrets()",
    "SET VARIABLE x = (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT getenv('HOME')",
    "FROM secret_variable_of_the_caller",
]


WRITES = [
    "COPY checkpoints TO '{store}/new.parquet'",
    "COPY checkpoints TO '{outside}/new.parquet'",
    "COPY (SELECT 1) TO '{part}' (FORMAT parquet, USE_TMP_FILE false)",
    "WITH x AS (COPY checkpoints TO '{store}/new.parquet') FROM x",
    "WITH x AS (COPY checkpoints TO '{store}/new.parquet') SELECT 1",
    "WITH x AS MATERIALIZED (COPY checkpoints TO '{part}' (FORMAT parquet, USE_TMP_FILE false)) SELECT 1",
    "wItH x As (cOpY/**/checkpoints TO '{store}/new.parquet') FROM x",
    "FROM query('WITH x AS (CO' || 'PY checkpoints TO ''{store}/new.parquet'') FROM x')",
    "FROM json_execute_serialized_sql("
    "json_serialize_sql('WITH x AS (COPY checkpoints TO ''{store}/new.parquet'') FROM x'))",
    "EXPLAIN ANALYZE COPY checkpoints TO '{store}/new.parquet'",
    "EXPLAIN /* */ (ANALYZE, FORMAT json) COPY checkpoints TO '{store}/new.parquet'",
    "EXPORT DATABASE '{store}/dump'",
    "SELECT 1; COPY checkpoints TO '{store}/new.parquet'",
    "SET VARIABLE x = (WITH x AS (COPY checkpoints TO '{store}/new.parquet') SELECT 1 FROM x)",
    "ATTACH '{store}/new.duckdb'",
    "ATTACH '{outside}/new.duckdb' AS n",
    "ATTACH ':memory:' AS n",
    "CREATE TABLE t AS FROM checkpoints",
    "CREATE OR REPLACE VIEW scores AS SELECT 1",
    "DROP VIEW scores",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "FROM enable_profiling(save_location := '{store}/profile.json')",
    "FROM enable_logging('QueryLog', storage := 'file', storage_path := '{store}/logs')",
    "PREPARE p AS COPY checkpoints TO '{store}/new.parquet'",
    "CALL checkpoint()",
    "VACUUM",
    "CHECKPOINT",
    "BEGIN",
]


LOADS_OR_SETS = [
    "SET VARIABLE x = 1 -- a comment\n || getenv('HOME')",
    "SET VARIABLE x = 1 /* ; -- */ || (SELECT 1)",
    "SET VARIABLE x = 1 --;--\r || (SELECT 1)",
    "SET VARIABLE x = $$ ' $$ || (SELECT 1) || $$ ' $$",
    "SET VARIABLE x = E'\\'' || (SELECT 1) || ''",
    "SET VARIABLE x = ';-- ' || (SELECT 1)",
    "SET VARIABLE x = 'ü' || (SELECT 1)",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{outside}/evil.duckdb_extension'",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET allowed_directories = ['/']",
    "SET memory_limit = '1TB'",
    "RESET memory_limit",
    "PRAGMA enable_external_access",
    "USE memory",
    "IMPORT DATABASE '{outside}'",
    "",
    "; ;",
    "SELECT",
    "DELETE FROM checkpoints",
]
