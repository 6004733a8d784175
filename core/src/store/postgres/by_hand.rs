//! For tests: a server that lets each session in or not, as the test says, answers its first question and then says nothing more.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::store::StoreConfig;

#[derive(Clone, Copy)]
pub(super) enum Door {
    Open,
    WrongPassword,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind][..], &length, body].concat()
}

/// What `greet` asks for: whether this is a session of its own, read-only, durable.
fn looked() -> Vec<u8> {
    let columns = [("session", 25u32, "1"), ("read_only", 16, "f"), ("durable", 25, "on")];
    let count = (columns.len() as u16).to_be_bytes();
    let (mut described, mut row) = (count.to_vec(), count.to_vec());
    for (name, kind, value) in columns {
        described.extend([name.as_bytes(), &[0; 7], &kind.to_be_bytes()[..], &[0xff; 6], &[0; 2]].concat());
        row.extend((value.len() as u32).to_be_bytes());
        row.extend(value.as_bytes());
    }
    [message(b'T', &described), message(b'D', &row), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

/// Whatever it is; false: it has gone.
async fn hears(caller: &mut TcpStream) -> std::io::Result<bool> {
    Ok(caller.read(&mut [0; 4096]).await? > 0)
}

async fn serve(mut caller: TcpStream, door: Door) -> std::io::Result<()> {
    hears(&mut caller).await?;
    if matches!(door, Door::WrongPassword) {
        return caller.write_all(&message(b'E', b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0\0")).await;
    }
    caller.write_all(&[message(b'R', &[0; 4]), message(b'Z', b"I")].concat()).await?;
    hears(&mut caller).await?;
    caller.write_all(&looked()).await?;
    while hears(&mut caller).await? {}
    Ok(())
}

/// One door a session.
pub(super) async fn server(doors: &[Door]) -> StoreConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("postgres://nobody@{}/none?sslmode=disable", listener.local_addr().expect("an address"));
    let doors = doors.to_vec();
    tokio::spawn(async move {
        for door in doors {
            let (caller, _) = listener.accept().await.expect("is called");
            tokio::spawn(serve(caller, door));
        }
    });
    StoreConfig {
        follow_up: |_, _| None,
        url,
        schema: "everstep".into(),
        namespace: "default".into(),
        lanes: 1,
        pool: 1,
        pooler: Some(false),
        statement_timeout_ms: 60_000,
        beat_timeout_ms: 150,
        allow_async_commit: false,
    }
}
