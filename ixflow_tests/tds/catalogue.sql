-- What a new database of the stand-in has: the catalogue views and functions that ixflow and
-- SQLAlchemy ask of SQL Server.
CREATE SCHEMA dbo;
CREATE SCHEMA sys;
CREATE TABLE sys.schemas (schema_id INTEGER, name VARCHAR);
INSERT INTO sys.schemas VALUES (1, 'dbo'), (4, 'sys');
CREATE TABLE sys.objects (
    object_id INTEGER, name VARCHAR, schema_id INTEGER, type VARCHAR, is_memory_optimized BOOLEAN
);
CREATE VIEW sys.tables AS
    SELECT object_id, name, schema_id, false AS is_external, is_memory_optimized
    FROM sys.objects WHERE type = 'U';
CREATE TABLE sys.types (
    name VARCHAR, user_type_id INTEGER, system_type_id INTEGER,
    is_assembly_type BOOLEAN, is_user_defined BOOLEAN
);
INSERT INTO sys.types SELECT n, i, i, false, false FROM (VALUES
    ('image', 34), ('text', 35), ('uniqueidentifier', 36), ('date', 40), ('time', 41),
    ('datetime2', 42), ('datetimeoffset', 43), ('tinyint', 48), ('smallint', 52), ('int', 56),
    ('smalldatetime', 58), ('real', 59), ('money', 60), ('datetime', 61), ('float', 62),
    ('sql_variant', 98), ('ntext', 99), ('bit', 104), ('decimal', 106), ('numeric', 108),
    ('smallmoney', 122), ('bigint', 127), ('varbinary', 165), ('varchar', 167), ('binary', 173),
    ('char', 175), ('timestamp', 189), ('nvarchar', 231), ('nchar', 239), ('xml', 241),
    ('json', 244)) AS t(n, i);
-- All types made of .NET classes are 240 to the system; sysname is an alias.
INSERT INTO sys.types VALUES
    ('hierarchyid', 128, 240, true, false), ('geometry', 129, 240, true, false),
    ('geography', 130, 240, true, false), ('sysname', 256, 231, false, false);
CREATE TABLE sys.columns (
    object_id INTEGER, name VARCHAR, column_id INTEGER, user_type_id INTEGER,
    system_type_id INTEGER, max_length SMALLINT, "precision" UTINYINT, scale UTINYINT,
    is_nullable BOOLEAN, is_hidden BOOLEAN, encryption_type INTEGER, collation_name VARCHAR
);
CREATE TABLE sys.indexes (
    object_id INTEGER, index_id INTEGER, is_primary_key BOOLEAN, type UTINYINT DEFAULT 1,
    is_unique BOOLEAN DEFAULT true, is_disabled BOOLEAN DEFAULT false,
    has_filter BOOLEAN DEFAULT false
);
CREATE TABLE sys.index_columns (
    object_id INTEGER, index_id INTEGER, column_id INTEGER, key_ordinal UTINYINT
);
CREATE VIEW sys.partitions AS
    SELECT o.object_id, 1 AS index_id, t.estimated_size AS "rows",
        o.object_id AS hobt_id, o.object_id AS partition_id
    FROM sys.objects AS o
    JOIN sys.schemas AS s ON s.schema_id = o.schema_id
    JOIN duckdb_tables() AS t ON t.schema_name = s.name AND t.table_name = o.name;
CREATE VIEW sys.allocation_units AS
    SELECT 1 AS type, hobt_id AS container_id, 2 + "rows" // 100 AS used_pages FROM sys.partitions;
CREATE TABLE sys.databases (
    name VARCHAR, database_id INTEGER, snapshot_isolation_state UTINYINT, is_read_only BOOLEAN,
    source_database_id INTEGER
);
CREATE TABLE sys.extended_properties (
    class UTINYINT, major_id INTEGER, minor_id INTEGER, name VARCHAR, value VARCHAR
);
CREATE VIEW sys.dm_exec_sessions AS
    SELECT 55 AS session_id, true AS is_user_process, 2 AS transaction_isolation_level;
CREATE VIEW sys.system_views AS SELECT 'dm_exec_sessions' AS name;
CREATE TABLE sys.permissions (view_server_state BOOLEAN);
INSERT INTO sys.permissions VALUES (true);
CREATE MACRO schema_id(n) AS (SELECT schema_id FROM sys.schemas WHERE name = n);
CREATE MACRO name_of_schema(i) AS (SELECT name FROM sys.schemas WHERE schema_id = i);
-- Only names in brackets. As on most servers, capitals do not matter.
CREATE MACRO object_id(n) AS (
    SELECT any_value(o.object_id)
    FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id
    WHERE lower(n) IN (
        lower('[' || replace(s.name, ']', ']]') || '].[' || replace(o.name, ']', ']]') || ']'),
        CASE s.name WHEN 'dbo' THEN lower('[' || replace(o.name, ']', ']]') || ']') END
    )
);
CREATE MACRO name_of_database() AS (SELECT name FROM sys.databases);
CREATE MACRO databasepropertyex(n, p) AS (
    SELECT CASE WHEN is_read_only THEN 'READ_ONLY' ELSE 'READ_WRITE' END FROM sys.databases
);
CREATE MACRO has_perms_by_name(s, c, p) AS (
    SELECT CAST(view_server_state AS INTEGER) FROM sys.permissions
);
CREATE MACRO sql_variant_property(v, p) AS 'nvarchar';
