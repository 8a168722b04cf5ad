//! The database server that the others take for granted.

use super::servers::postgres::Postgres;
use tokio_postgres::NoTls;

async fn client(server: &Postgres) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    // It ends with the server, and with the client.
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn postgres_has_what_was_committed_when_it_was_killed() {
    let mut server = Postgres::start();
    let before = client(&server).await;
    let create = "CREATE TABLE t (i bigint); INSERT INTO t VALUES (7)";
    before.batch_execute(create).await.unwrap();
    server.kill();
    assert!(before.batch_execute("SELECT 1").await.is_err());
    server.restart();
    let after = client(&server).await;
    let row = after.query_one("SELECT i FROM t", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 7);
}
