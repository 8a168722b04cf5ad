//! Checks the PostgreSQL server that the other tests use.

use super::servers::postgres::Postgres;
use tokio_postgres::NoTls;

async fn client(server: &Postgres) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    // The task ends when the server or the client closes the connection.
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn killed_postgres_keeps_committed_rows() {
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
