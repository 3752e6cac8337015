//! The PostgreSQL door, asked by psql.
#![allow(clippy::unwrap_used)]
mod support;

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use polybolos_gateway::postgres;
use support::{MemoryEngine, READER_TOKEN, TOKEN, TestLogin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;

async fn door() -> SocketAddr {
    door_of(MemoryEngine::start().await).await
}

async fn door_of(engine: Arc<MemoryEngine>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(postgres::serve(listener, engine, Arc::new(TestLogin), None, CancellationToken::new()));
    address
}

struct Said {
    out: String,
    err: String,
    code: i32,
}

async fn psql_as(address: SocketAddr, user: &str, password: &str, database: &str, arguments: &[&str]) -> Said {
    let output = Command::new("psql")
        .args([
            "-X",
            "-w",
            "-h",
            "127.0.0.1",
            "-p",
            &address.port().to_string(),
            "-U",
            user,
            "-d",
            database,
            "-v",
            "VERBOSITY=verbose",
        ])
        .args(arguments)
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "10")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), output)
        .await
        .expect("psql hangs")
        .expect("psql is needed: install postgresql-client");
    Said {
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap_or(-1),
    }
}

async fn psql(address: SocketAddr, sql: &str) -> Said {
    psql_as(address, "admin", TOKEN, "polybolos", &["-At", "-c", sql]).await
}

#[tokio::test]
async fn rows_arrive() {
    let address = door().await;
    let said = psql(address, "SELECT id, first_name, age, registered_date FROM created_users ORDER BY id").await;
    assert_eq!(said.out, "a|محمد|31|2026-01-02 03:04:05.000000\nb|Zoë||\nc|O'Hara|-5|2012-05-06 00:00:00.123000\n", "{}", said.err);
    let said = psql(address, "SHOW JOBS").await;
    assert_eq!(said.out, "j|running\n", "{}", said.err);
    for (sql, expected) in [
        ("SELECT 1", "1\n"),
        ("SELECT current_database()", "polybolos\n"),
        ("SHOW server_version", ""),
        ("SELECT pg_catalog.version()", "PostgreSQL 16.6 (Polybolos "),
        ("SHOW TRANSACTION ISOLATION LEVEL", "read committed\n"),
        ("SELECT current_setting('server_version_num')::int/100", "1600"),
        ("SELECT pg_is_in_recovery()", "f"),
    ] {
        let said = psql(address, sql).await;
        assert_eq!(said.code, 0, "{sql}: {}", said.err);
        assert!(said.out.starts_with(expected), "{sql}: {}", said.out);
    }
    let said = psql_as(address, "admin", TOKEN, "polybolos", &["-A", "-c", "SELECT 1 + 2, 'a', current_database()"]).await;
    assert_eq!(said.out, "1 + 2|'a'|current_database()\n3|a|polybolos\n(1 row)\n", "{}", said.err);
    let said = psql(address, "BEGIN; SELECT count(*) FROM created_users; COMMIT").await;
    assert_eq!(said.out, "BEGIN\n3\nCOMMIT\n", "{}", said.err);
    assert_eq!(said.err, "");
}

#[tokio::test]
async fn types_that_postgresql_lacks_are_shown_as_kindred_ones() {
    let address = door().await;
    let sql = "SELECT CAST(-1 AS TINYINT), make_array(make_array(1, 2)), named_struct('a', NULL, 'b', id), INTERVAL '1 day'
               FROM created_users WHERE id = 'a'";
    let said = psql(address, sql).await;
    assert!(said.out.starts_with("-1|[[1,2]]|{\"a\":null,\"b\":\"a\"}|"), "{} {}", said.out, said.err);
}

#[tokio::test]
async fn decimals_arrive_with_all_their_digits() {
    let address = door().await;
    let (nines, many) = ("9".repeat(38), "9".repeat(76));
    let sql = format!(
        "SELECT arrow_cast('-{nines}', 'Decimal128(38, 0)'), arrow_cast('{many}', 'Decimal256(76, 0)'),
                make_array(arrow_cast('0.{nines}', 'Decimal128(38, 38)'), NULL) FROM created_users WHERE id = 'a'"
    );
    let said = psql(address, &sql).await;
    assert_eq!(said.out, format!("-{nines}|{many}|{{0.{nines},NULL}}\n"), "{}", said.err);
}

#[tokio::test]
async fn a_block_of_statements_says_that_it_takes_nothing_back() {
    let address = door().await;
    let said = psql(address, "BEGIN; PAUSE JOB j; ROLLBACK").await;
    assert_eq!(said.out, "BEGIN\nPAUSE JOB\nROLLBACK\n", "{}", said.err);
    assert!(said.err.contains("statements take effect at once here"), "{}", said.err);
    let said = psql(address, "BEGIN; COMMIT; PAUSE JOB j").await;
    assert!(!said.err.contains("at once"), "{}", said.err);
    // One that has failed takes nothing more, until it ends.
    let failed = ["-c", "BEGIN; SELEC", "-c", "PAUSE JOB j", "-c", "ROLLBACK; PAUSE JOB j"];
    let said = psql_as(address, "admin", TOKEN, "polybolos", &failed).await;
    assert_eq!(said.out, "BEGIN\nROLLBACK\nPAUSE JOB\n", "{}", said.err);
    assert!(said.err.contains("ERROR:  25P02"), "{}", said.err);
    let said = psql_as(address, "admin", TOKEN, "polybolos", &["-c", "BEGIN; SELEC", "-c", "SELECT 1"]).await;
    assert!(said.err.contains("ERROR:  25P02"), "{}", said.err);
}

#[tokio::test]
async fn tools_find_tables_and_columns() {
    let address = door().await;
    let list = psql(address, "\\d").await;
    assert!(list.out.contains("created_users"), "{} {}", list.out, list.err);
    let table = psql(address, "\\d created_users").await;
    assert!(table.out.contains("first_name") && table.out.contains("registered_date"), "{} {}", table.out, table.err);
    for command in ["\\dt", "\\dn", "\\l"] {
        let said = psql(address, command).await;
        assert_eq!(said.err, "", "{command}");
    }
    let columns = psql(
        address,
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'created_users' ORDER BY 1",
    )
    .await;
    assert!(columns.out.contains("first_name|"), "{} {}", columns.out, columns.err);
}

#[tokio::test]
async fn drivers_find_types() {
    let address = door().await;
    for (sql, expected) in [
        // psycopg, which SQLAlchemy has ask for `hstore`.
        (
            "SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim AS delimiter
             FROM pg_type t WHERE t.oid = to_regtype('int4') ORDER BY t.oid",
            "int4|23|1007|23|,\n",
        ),
        ("SELECT typname, oid FROM pg_type t WHERE t.oid = to_regtype('hstore')", ""),
        // pgJDBC.
        (
            "SELECT typinput='pg_catalog.array_in'::regproc AS is_array, typtype, typname FROM pg_catalog.pg_type WHERE oid = 1007",
            "t|b|_int4\n",
        ),
        // Npgsql, shortened.
        (
            "SELECT typ.typname, CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype
             FROM pg_type AS typ LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive WHERE typ.oid IN (23, 1007) ORDER BY typ.oid",
            "int4|b\n_int4|a\n",
        ),
    ] {
        let said = psql(address, sql).await;
        assert_eq!(said.out, expected, "{sql}: {}", said.err);
        assert_eq!(said.code, 0, "{sql}: {}", said.err);
    }
}

/// As SQLAlchemy's inspector asks, shortened.
#[tokio::test]
async fn tools_reflect_tables() {
    let address = door().await;
    let visible = "pg_catalog.pg_class.relpersistence != 't'::VARCHAR AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid)
                   AND pg_catalog.pg_namespace.nspname != 'pg_catalog'::VARCHAR";
    let classes =
        "pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace";
    let of_kind = |kind: &str| {
        format!(
            "SELECT pg_catalog.pg_class.relname FROM {classes} WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['{kind}'::VARCHAR]) AND {visible}"
        )
    };
    let schemas = "SELECT pg_catalog.pg_namespace.nspname FROM pg_catalog.pg_namespace
                   WHERE (pg_catalog.pg_namespace.nspname NOT LIKE 'pg/_'::VARCHAR || '%' ESCAPE '/') AND pg_catalog.pg_namespace.nspname != 'information_schema'";
    let columns = format!(
        "SELECT pg_catalog.pg_attribute.attname AS name, pg_catalog.format_type(pg_catalog.pg_attribute.atttypid, pg_catalog.pg_attribute.atttypmod) AS format_type,
                CASE WHEN pg_catalog.pg_attribute.atthasdef THEN
                  (SELECT pg_catalog.pg_get_expr(pg_catalog.pg_attrdef.adbin, pg_catalog.pg_attrdef.adrelid) AS pg_get_expr_1 FROM pg_catalog.pg_attrdef
                   WHERE pg_catalog.pg_attribute.atthasdef AND pg_catalog.pg_attrdef.adrelid = pg_catalog.pg_attribute.attrelid) ELSE NULL END AS \"default\",
                CASE WHEN (pg_catalog.pg_attribute.attidentity != '') THEN
                  (SELECT json_build_object('start', pg_catalog.pg_sequence.seqstart) AS json_build_object_1 FROM pg_catalog.pg_sequence
                   WHERE pg_catalog.pg_sequence.seqrelid = CAST(CAST(pg_catalog.pg_get_serial_sequence(CAST(CAST(pg_catalog.pg_attribute.attrelid AS REGCLASS) AS TEXT),
                         pg_catalog.pg_attribute.attname) AS REGCLASS) AS OID)) ELSE NULL END AS identity_options,
                CASE WHEN (pg_catalog.pg_attribute.attcollation != 0::INTEGER AND
                  (SELECT pg_catalog.pg_type.typcollation FROM pg_catalog.pg_type WHERE pg_catalog.pg_type.oid = pg_catalog.pg_attribute.atttypid)
                  != pg_catalog.pg_attribute.attcollation) THEN
                  (SELECT pg_catalog.pg_collation.collname FROM pg_catalog.pg_collation
                   WHERE pg_catalog.pg_collation.oid = pg_catalog.pg_attribute.attcollation) ELSE NULL END AS collation
         FROM pg_catalog.pg_class LEFT OUTER JOIN pg_catalog.pg_attribute ON pg_catalog.pg_class.oid = pg_catalog.pg_attribute.attrelid
              AND pg_catalog.pg_attribute.attnum > 0::SMALLINT AND NOT pg_catalog.pg_attribute.attisdropped
              LEFT OUTER JOIN pg_catalog.pg_description ON pg_catalog.pg_description.objoid = pg_catalog.pg_attribute.attrelid
              AND pg_catalog.pg_description.objsubid = pg_catalog.pg_attribute.attnum
              JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
         WHERE {visible} AND pg_catalog.pg_class.relname IN ('created_users'::VARCHAR)
         ORDER BY pg_catalog.pg_class.relname, pg_catalog.pg_attribute.attnum"
    );
    let comment = format!(
        "SELECT pg_catalog.pg_class.relname, pg_catalog.pg_description.description FROM pg_catalog.pg_class
         LEFT OUTER JOIN pg_catalog.pg_description ON pg_catalog.pg_class.oid = pg_catalog.pg_description.objoid
           AND pg_catalog.pg_description.objsubid = 0::INTEGER AND pg_catalog.pg_description.classoid = CAST('pg_catalog.pg_class' AS REGCLASS)
         JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
         WHERE {visible} AND pg_catalog.pg_class.relname IN ('created_users'::VARCHAR)"
    );
    let keys_of = |kind: &str| {
        format!(
            "SELECT array_agg(CAST(attr.attname AS TEXT) ORDER BY attr.ord) AS cols, attr.conname, min(attr.description) AS description,
                    min(attr.indnkeyatts) AS indnkeyatts, bool_and(attr.indnullsnotdistinct) AS indnullsnotdistinct
             FROM (SELECT con.conrelid AS conrelid, con.conname AS conname, con.description AS description, con.ord AS ord,
                          con.indnkeyatts AS indnkeyatts, con.indnullsnotdistinct AS indnullsnotdistinct, pg_catalog.pg_attribute.attname AS attname
                   FROM pg_catalog.pg_attribute JOIN
                     (SELECT pg_catalog.pg_constraint.conrelid AS conrelid, pg_catalog.pg_constraint.conname AS conname,
                             unnest(pg_catalog.pg_index.indkey) AS attnum, generate_subscripts(pg_catalog.pg_index.indkey, 1::INTEGER) AS ord,
                             pg_catalog.pg_index.indnkeyatts AS indnkeyatts, pg_catalog.pg_index.indnullsnotdistinct AS indnullsnotdistinct,
                             pg_catalog.pg_description.description AS description
                      FROM pg_catalog.pg_constraint JOIN pg_catalog.pg_index ON pg_catalog.pg_constraint.conindid = pg_catalog.pg_index.indexrelid
                      LEFT OUTER JOIN pg_catalog.pg_description ON pg_catalog.pg_description.objoid = pg_catalog.pg_constraint.oid
                        AND pg_catalog.pg_description.classoid = CAST('pg_constraint' AS REGCLASS)
                      WHERE pg_catalog.pg_constraint.contype = '{kind}'::VARCHAR) AS con
                   ON pg_catalog.pg_attribute.attnum = con.attnum AND pg_catalog.pg_attribute.attrelid = con.conrelid) AS attr
             GROUP BY attr.conrelid, attr.conname ORDER BY attr.conrelid, attr.conname"
        )
    };
    let indexes = "SELECT idx.indexrelid, array_agg(idx.class ORDER BY idx.ord) AS classes FROM
                   (SELECT i.indexrelid AS indexrelid, unnest(i.indclass) AS class, generate_subscripts(i.indkey, 1::INTEGER) AS ord
                    FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid) AS idx GROUP BY idx.indexrelid";
    for (sql, expected) in [
        (schemas, "public\n"),
        (of_kind("r").as_str(), "created_users\n"),
        (of_kind("v").as_str(), "Adults\n"),
        (
            columns.as_str(),
            "id|text|||\nfirst_name|text|||\nlast_name|text|||\nage|integer|||\nregistered_date|timestamp without time zone|||\n",
        ),
        (comment.as_str(), "created_users|\n"),
        (keys_of("p").as_str(), "{last_name,id}|created_users_pkey||2|f\n"),
        (keys_of("u").as_str(), ""),
        (indexes, ""),
    ] {
        let said = psql(address, sql).await;
        assert_eq!((said.out.as_str(), said.code), (expected, 0), "{sql}: {}", said.err);
    }
}

#[tokio::test]
async fn backslash_commands_tell_what_there_is() {
    let address = door().await;
    for (command, expected) in [
        ("\\d+ created_users", "first_name|text||||extended|||"),
        ("\\d \"Adults\"", "id|text||not null|"),
        ("\\d+ \"Adults\"", "View definition:\nSELECT id FROM created_users WHERE age > 17"),
        ("\\sv \"Adults\"", "VIEW public.\"Adults\" AS\nSELECT id FROM created_users WHERE age > 17"),
        ("\\d+", "public|created_users|table|admin|permanent||0 bytes|\n"),
        ("\\dt+", "public|created_users|table|admin|permanent||0 bytes|\n"),
        ("\\dv", "public|Adults|view|admin\n"),
        ("\\dn+", "public|admin||\n"),
        ("\\l+", "polybolos|admin|UTF-8|en_US.UTF-8|en_US.UTF-8||libc||0 bytes|pg_default|\n"),
        ("\\du", "admin|Superuser, Create role, Create DB|"),
        ("\\dp", "public|created_users|table|||\n"),
        ("\\df+", "(0 rows)"),
        ("\\dT+", "(0 rows)"),
        ("\\ddp", "(0 rows)"),
        ("\\dL", "(0 rows)"),
        ("\\dO", "(0 rows)"),
        ("\\dd", "(0 rows)"),
        ("\\dy", "(0 rows)"),
        ("\\dX", "(0 rows)"),
    ] {
        let said = psql_as(address, "admin", TOKEN, "polybolos", &["-A", "-c", command]).await;
        assert!(said.out.contains(expected), "{command}: {} {}", said.out, said.err);
        assert_eq!(said.err, "", "{command}");
        assert!(!said.out.contains("postgres"), "{command}: {}", said.out);
    }
    let reader = psql_as(address, "reader", READER_TOKEN, "polybolos", &["-At", "-c", "\\dv", "-c", "\\du"]).await;
    assert!(reader.out.starts_with("public|Adults|view|reader\nreader||"), "{} {}", reader.out, reader.err);
    for command in ["\\di", "\\ds", "\\dm"] {
        assert!(psql(address, command).await.err.contains("Did not find any relations"), "{command}");
    }
    for command in ["\\sf nowhere", "\\sv nowhere"] {
        assert!(psql(address, command).await.err.contains("\"nowhere\" not found"), "{command}");
    }
}

#[tokio::test]
async fn errors_have_codes_and_hints() {
    let address = door().await;
    for (sql, code) in [("SELEC 1", "42601"), ("SELECT * FROM nowhere", "42P01"), ("SELECT nothing FROM created_users", "42703")] {
        let said = psql(address, sql).await;
        assert!(said.err.contains(&format!("ERROR:  {code}")), "{sql}: {}", said.err);
    }
    let said = psql_as(address, "reader", READER_TOKEN, "polybolos", &["-c", "PAUSE JOB j"]).await;
    assert!(said.err.contains("42501") && said.err.contains("HINT:  ask an operator"), "{}", said.err);
    let said = psql(address, "PAUSE JOB j").await;
    assert_eq!(said.out, "PAUSE JOB\n");
    assert!(said.err.contains("job j pauses after its epoch"), "{}", said.err);
}

#[tokio::test]
async fn answers_before_a_statement_that_fails_are_shown() {
    let address = door().await;
    for (failing, code) in
        [("SELECT nothing FROM created_users", "42703"), ("SELECT nothing FROM pg_class", "42703"), ("SELEC", "42601")]
    {
        let said = psql(address, &format!("SELECT count(*) FROM created_users; SELECT 1; {failing}; PAUSE JOB j")).await;
        assert_eq!(said.out, "3\n1\n", "{failing}: {}", said.err);
        assert!(said.err.contains(&format!("ERROR:  {code}")) && !said.err.contains("pauses after"), "{failing}: {}", said.err);
        assert_eq!(said.code, 1, "{failing}");
    }
}

#[tokio::test]
async fn a_wrong_password_says_where_the_right_one_is() {
    let address = door().await;
    for (user, password) in [("admin", "wrong"), ("nobody", TOKEN), ("reader", TOKEN), ("admin", "x")] {
        let said = psql_as(address, user, password, "polybolos", &["-c", "SELECT 1"]).await;
        assert_ne!(said.code, 0);
        assert!(said.err.contains("password authentication failed") && said.err.contains("token"), "{}", said.err);
    }
    let said = psql_as(address, "admin", TOKEN, "other", &["-c", "SELECT 1"]).await;
    assert!(said.err.contains("database \"other\" does not exist"), "{}", said.err);
}

#[tokio::test]
async fn long_statements_can_be_ended() {
    let engine = MemoryEngine::start().await;
    let address = door_of(engine.clone()).await;
    for (statement, goes_on) in [("SLEEP", false), ("SLEEP ON", true)] {
        let said = psql(address, &format!("SET statement_timeout = '100ms'; {statement}")).await;
        assert!(said.err.contains("57014"), "{}", said.err);
        assert_eq!(said.err.contains("goes on to its end; SHOW JOBS"), goes_on, "{}", said.err);
    }
    let started = std::time::Instant::now();
    let mut sleeps = engine.sleeps.subscribe();
    let slow = slow_psql(address);
    tokio::time::timeout(Duration::from_secs(60), sleeps.changed()).await.unwrap().unwrap();
    let said = interrupted(slow).await;
    assert!(said.contains("canceling statement due to user request") && said.contains("SHOW JOBS"), "{said}");
    assert!(started.elapsed() < Duration::from_secs(75), "it sleeps for 90 s");
}

/// The protocol itself, for what psql does not do.
struct Wire {
    socket: TcpStream,
    /// What a cancellation is asked with.
    key: Vec<u8>,
}

impl Wire {
    async fn hello(address: SocketAddr, password: &str) -> Self {
        let mut wire = Self { socket: TcpStream::connect(address).await.unwrap(), key: Vec::new() };
        wire.socket.write_all(b"\0\0\0\x27\0\x03\0\0user\0admin\0database\0polybolos\0\0").await.unwrap();
        assert_eq!(wire.message().await.0, b'R');
        wire.send(b'p', &[password.as_bytes(), b"\0"].concat()).await;
        wire
    }

    async fn login(address: SocketAddr) -> Self {
        let mut wire = Self::hello(address, TOKEN).await;
        for (kind, body) in wire.until(b'Z').await {
            if kind == b'K' {
                wire.key = body;
            }
        }
        wire
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        self.socket.write_all(&[[kind].as_slice(), &length, body].concat()).await.unwrap();
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let kind = self.socket.read_u8().await.unwrap();
            let mut body = vec![0; self.socket.read_u32().await.unwrap() as usize - 4];
            self.socket.read_exact(&mut body).await.unwrap();
            (kind, body)
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the door says nothing")
    }

    /// All messages to the first of a kind, without rows.
    async fn until(&mut self, last: u8) -> Vec<(u8, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let (kind, body) = self.message().await;
            if kind != b'D' || last == b'D' {
                messages.push((kind, body));
            }
            if kind == last {
                return messages;
            }
        }
    }

    /// Parse, bind, execute and sync.
    async fn execute(&mut self, sql: &str, max_rows: i32) {
        self.execute_with(sql, &[], max_rows).await;
    }

    /// The same with values of parameters, as text.
    async fn execute_with(&mut self, sql: &str, values: &[&str], max_rows: i32) {
        self.send(b'P', format!("\0{sql}\0\0\0").as_bytes()).await;
        let mut bound = vec![0; 4];
        bound.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
        for value in values {
            bound.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
            bound.extend(value.as_bytes());
        }
        bound.extend([0; 2]);
        self.send(b'B', &bound).await;
        self.send(b'E', &[b"\0".as_slice(), &max_rows.to_be_bytes()].concat()).await;
        self.send(b'S', b"").await;
    }
}

fn kinds(messages: &[(u8, Vec<u8>)]) -> String {
    messages.iter().map(|(kind, _)| char::from(*kind)).collect()
}

const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";

/// Some rows, and then none and no end.
const QUIET: &str = "SELECT id AS endless FROM created_users";

#[tokio::test]
async fn answers_before_rows_without_an_end_are_not_kept_back() {
    let said = psql(door().await, &format!("SELECT id FROM created_users; {QUIET}")).await;
    assert!(said.err.contains("0A000") && said.err.contains("send it by itself"), "{}", said.err);
    assert!(said.out.contains('b'), "{}", said.out);
}

#[tokio::test]
async fn rows_on_their_way_can_be_cancelled() {
    let address = door().await;
    for (statement, is_prepared) in [(ENDLESS, false), (ENDLESS, true), (QUIET, false), (QUIET, true)] {
        let mut wire = Wire::login(address).await;
        if is_prepared {
            wire.execute(statement, 0).await;
        } else {
            wire.send(b'Q', format!("{statement}\0").as_bytes()).await;
        }
        wire.until(b'D').await;
        let mut cancelling = TcpStream::connect(address).await.unwrap();
        let request = [b"\0\0\0\x10\x04\xd2\x16\x2e".as_slice(), &wire.key].concat();
        cancelling.write_all(&request).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), wire.until(b'Z')).await.expect("the rows end");
        let error = String::from_utf8_lossy(&ended[0].1);
        assert!(kinds(&ended) == "EZ" && error.contains("C57014\0"), "{} {error}", kinds(&ended));
    }
}

#[tokio::test]
async fn a_time_limit_counts_until_the_last_row() {
    let address = door().await;
    for statement in [ENDLESS, "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 3"] {
        let said = psql(address, &format!("SET statement_timeout = '100ms'; {statement}")).await;
        assert!(said.err.contains("57014"), "{statement}: {}", said.err);
    }
    let mut wire = Wire::login(address).await;
    wire.send(b'Q', b"SET statement_timeout = '100ms'\0").await;
    wire.until(b'Z').await;
    wire.execute(ENDLESS, 0).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), wire.until(b'Z')).await.expect("the rows end");
    assert_eq!(kinds(&ended), "12EZ");
}

#[tokio::test]
async fn rows_of_prepared_statements_are_sent_as_they_come() {
    let mut wire = Wire::login(door().await).await;
    // They would all be read before the first is sent.
    wire.execute("SELECT 1 / (100000 - value) FROM generate_series(1, 100000)", 0).await;
    assert_eq!(kinds(&wire.until(b'D').await), "12D");
    let rest = wire.until(b'Z').await;
    assert!(kinds(&rest) == "EZ" && String::from_utf8_lossy(&rest[0].1).contains("C22012\0"));
    // No limit, and one.
    for (max_rows, expected) in [(-1, "12CZ"), (2, "12sZ"), (i32::MAX, "12CZ")] {
        wire.execute("SELECT id FROM created_users", max_rows).await;
        assert_eq!(kinds(&wire.until(b'Z').await), expected, "{max_rows}");
    }
}

#[tokio::test]
async fn parameters_keep_their_places_where_the_catalog_asks_less() {
    let mut wire = Wire::login(door().await).await;
    // The first one goes with the subquery.
    let sql =
        "SELECT (SELECT d.adbin FROM pg_catalog.pg_attrdef AS d WHERE d.adrelid = a.attrelid AND d.adbin = $1) AS d, a.attname
               FROM pg_catalog.pg_attribute AS a WHERE a.attnum = $2::INT AND a.attname = $3::VARCHAR";
    wire.execute_with(sql, &["no number", "1", "id"], 0).await;
    assert_eq!(kinds(&wire.until(b'D').await), "12D");
    let rest = wire.until(b'Z').await;
    assert_eq!(kinds(&rest), "CZ", "{}", String::from_utf8_lossy(&rest[0].1));
}

#[tokio::test]
async fn a_parameter_of_a_great_number_takes_no_memory() {
    let mut wire = Wire::login(door().await).await;
    wire.execute("SELECT $4000000000", 0).await;
    let answer = wire.until(b'Z').await;
    assert!(kinds(&answer).ends_with("EZ"), "{}", kinds(&answer));
}

#[tokio::test]
async fn a_login_that_failed_holds_no_place() {
    let address = door().await;
    let mut failed = Vec::new();
    for _ in 0..128 {
        let mut wire = Wire::hello(address, "wrong").await;
        let mut answer = Vec::new();
        wire.socket.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"E") && answer.ends_with(b"\0\0"), "{}", String::from_utf8_lossy(&answer));
        failed.push(wire);
    }
    let free = async {
        while psql(address, "SELECT 1").await.code != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), free).await.expect("places are free though the sockets are open");
}

/// As many connections as the door takes at once.
async fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut taken = Vec::new();
    for _ in 0..128 {
        taken.push(TcpStream::connect(address).await.unwrap());
    }
    taken
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let address = door().await;
    let mut taken = fill(address).await;
    let mut refused = TcpStream::connect(address).await.unwrap();
    let hello = b"\0\0\0\x27\0\x03\0\0user\0admin\0database\0polybolos\0\0";
    refused.write_all(hello).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), refused.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("SFATAL\0") && answer.contains("C53300\0"), "{answer:?}");
    // By default psql asks for TLS first.
    for mode in ["prefer", "disable"] {
        let wanted = format!("dbname=polybolos sslmode={mode}");
        let said = psql_as(address, "admin", TOKEN, &wanted, &["-c", "SELECT 1"]).await;
        assert_ne!(said.code, 0);
        let told = "FATAL:  too many connections: the PostgreSQL door takes 128 at once";
        assert!(said.err.contains(told) && said.err.contains("HINT:  close some"), "{mode}: {}", said.err);
    }
    taken.pop();
    let freed = async {
        while psql(address, "SELECT 1").await.code != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("a place that is free again is given away");
}

#[tokio::test]
async fn a_statement_can_be_cancelled_while_no_connection_is_left() {
    let engine = MemoryEngine::start().await;
    let address = door_of(engine.clone()).await;
    let mut sleeps = engine.sleeps.subscribe();
    let slow = slow_psql(address);
    tokio::time::timeout(Duration::from_secs(60), sleeps.changed()).await.unwrap().unwrap();
    let _taken = fill(address).await;
    let said = interrupted(slow).await;
    assert!(said.contains("canceling statement due to user request"), "{said}");
}

fn slow_psql(address: SocketAddr) -> Child {
    let port = address.port().to_string();
    Command::new("psql")
        .args(["-X", "-w", "-h", "127.0.0.1", "-p", &port, "-U", "admin", "-d", "polybolos", "-c", "SLEEP ON"])
        .env("PGPASSWORD", TOKEN)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql is needed: install postgresql-client")
}

/// What it says after Ctrl-C.
async fn interrupted(slow: Child) -> String {
    let pid = slow.id().unwrap().to_string();
    Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
    String::from_utf8(slow.wait_with_output().await.unwrap().stderr).unwrap()
}
