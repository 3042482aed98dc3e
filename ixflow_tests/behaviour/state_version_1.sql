-- A state as version 1 has made it; it never changes.
CREATE TABLE ixflow_extraction_plans (
	identity VARCHAR(64) NOT NULL,
	object_name TEXT NOT NULL,
	planned_at VARCHAR(40) NOT NULL,
	result_json TEXT NOT NULL,
	PRIMARY KEY (identity)
);
INSERT INTO "ixflow_extraction_plans" VALUES('94870012fc8f3d930c42d86c56d913a5f8d345d335a64453f0dc803b6e617781','orders','2026-11-21T10:36:46.060242+00:00','{"verdict": "SAFE TO RUN", "advisories": [], "worker_source": "profiler recommended", "throughput_estimate": 9157.5, "plan": {"identity": "94870012fc8f3d930c42d86c56d913a5f8d345d335a64453f0dc803b6e617781", "source_type": "sqlite", "object_name": "orders", "table": {"name": "orders", "schema": null}, "columns": [{"name": "id", "sql_type": "INTEGER", "type": "int64", "nullable": false, "as_text": false, "key_position": 1}], "strategy": "single_pass", "tasks": [{"chunk_id": "001", "part": {"table": {"name": "orders", "schema": null}, "only": false, "pages": null, "rows": 3, "size_bytes": 8192, "in_snapshot": true}, "pages": null, "estimated_rows": 3, "estimated_bytes": 8192}], "worker_count": 1, "consistency": "one snapshot", "require_snapshot": false, "all_columns": true, "output_format": "parquet", "compression": "zstd", "estimated_rows": 3, "estimated_bytes": 8192, "estimated_seconds": 0.0, "plan_version": "2.0", "arrow_schema": "/////3gAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwAAAAQABAAAAAAAAECEAAAABwAAAAEAAAAAAAAAAIAAABpZAAACAAMAAgABwAIAAAAAAAAAUAAAAA="}, "profile": {"object_name": "orders", "table": {"name": "orders", "schema": null}, "parts": [{"table": {"name": "orders", "schema": null}, "only": false, "pages": null, "rows": 3, "size_bytes": 8192, "in_snapshot": true}], "row_count_estimate": 3, "size_bytes": 8192, "pages": null, "cv": 0.0, "max_connections": 1, "active_connections": 0, "connection_ms": 0.42, "latency_p50_ms": 0.03, "latency_p95_ms": 0.04, "shares_snapshot": false}, "cost_estimate": null, "worker_resolution": {"workers": 1, "steps": [["base", 1]], "infeasible": null}, "runtime_context": null}');
CREATE TABLE ixflow_extraction_runs (
	run_id VARCHAR(64) NOT NULL,
	identity VARCHAR(64) NOT NULL,
	object_name TEXT NOT NULL,
	source_type VARCHAR(64) NOT NULL,
	source_json TEXT NOT NULL,
	output_dir TEXT NOT NULL,
	plan_json TEXT NOT NULL,
	plan_fingerprint VARCHAR(64) NOT NULL,
	plan_version VARCHAR(64) NOT NULL,
	runtime_context_json TEXT,
	replay_of VARCHAR(64),
	status VARCHAR(16) NOT NULL,
	started_at VARCHAR(40) NOT NULL,
	finished_at VARCHAR(40),
	seen_at VARCHAR(40) NOT NULL,
	machine TEXT NOT NULL,
	pid BIGINT NOT NULL,
	process_started BIGINT NOT NULL,
	workers INTEGER NOT NULL,
	effective_workers DOUBLE,
	rows_extracted BIGINT,
	bytes_written BIGINT,
	seconds DOUBLE,
	error TEXT,
	PRIMARY KEY (run_id)
);
INSERT INTO "ixflow_extraction_runs" VALUES('ix-20261121-101500-0a1b2c','94870012fc8f3d930c42d86c56d913a5f8d345d335a64453f0dc803b6e617781','orders','sqlite','{"type": "sqlite", "host": null, "port": null, "database": "s.db"}','/data/files','{"identity": "94870012fc8f3d930c42d86c56d913a5f8d345d335a64453f0dc803b6e617781", "source_type": "sqlite", "object_name": "orders", "table": {"name": "orders", "schema": null}, "columns": [{"name": "id", "sql_type": "INTEGER", "type": "int64", "nullable": false, "as_text": false, "key_position": 1}], "strategy": "single_pass", "tasks": [{"chunk_id": "001", "part": {"table": {"name": "orders", "schema": null}, "only": false, "pages": null, "rows": 3, "size_bytes": 8192, "in_snapshot": true}, "pages": null, "estimated_rows": 3, "estimated_bytes": 8192}], "worker_count": 1, "consistency": "one snapshot", "require_snapshot": false, "all_columns": true, "output_format": "parquet", "compression": "zstd", "estimated_rows": 3, "estimated_bytes": 8192, "estimated_seconds": 0.0, "plan_version": "2.0", "arrow_schema": "/////3gAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwAAAAQABAAAAAAAAECEAAAABwAAAAEAAAAAAAAAAIAAABpZAAACAAMAAgABwAIAAAAAAAAAUAAAAA="}','8f899da80d4bfccb2406f4cbfd58e0f31b79f1000fe6cc0be3dea2452e7c9750','2.0',NULL,NULL,'success','2026-11-21T10:36:46.081965+00:00','2026-11-21T10:36:46.143605+00:00','2026-11-21T10:36:46.143626+00:00','a-machine',13859,639196,1,1.0,3,476,0.0332627230000071,NULL);
CREATE TABLE ixflow_extraction_state (
	version INTEGER NOT NULL,
	migrated_at VARCHAR(40) NOT NULL,
	PRIMARY KEY (version)
);
INSERT INTO "ixflow_extraction_state" VALUES(1,'2026-11-21T10:36:46.038607+00:00');
CREATE TABLE ixflow_extraction_tasks (
	run_id VARCHAR(64) NOT NULL,
	chunk_id VARCHAR(64) NOT NULL,
	status VARCHAR(16) NOT NULL,
	rows_extracted BIGINT,
	bytes_written BIGINT,
	seconds DOUBLE,
	error TEXT,
	PRIMARY KEY (run_id, chunk_id)
);
INSERT INTO "ixflow_extraction_tasks" VALUES('ix-20261121-101500-0a1b2c','001','success',3,476,7.40848099940194515511e-03,NULL);
CREATE INDEX ixflow_extraction_runs_of ON ixflow_extraction_runs (identity, started_at);
