//! The agent of this node, asked over its unix socket: one JSON object per line each way.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};
use twinsite_api::AttachmentStatus;

/// A question is answered from memory; an order waits for both legs.
const ANSWER_TIME: Duration = Duration::from_secs(20);
const MAX_ANSWER: u64 = 8 << 20;

/// Where the agent listens.
#[derive(Debug, Clone)]
pub struct Agent {
    pub socket: PathBuf,
}

/// Why the agent does not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent of this node does not answer at {socket}: {source}")]
    Away { socket: PathBuf, source: io::Error },
    #[error("the agent took the question and did not answer in {} s", ANSWER_TIME.as_secs())]
    Late,
    #[error("the agent refuses: {0}")]
    Refused(String),
    #[error("the agent's answer cannot be read: is it of another version? {0}")]
    Answer(serde_json::Error),
}

/// Which step of making a file system is recorded on the legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormatStep {
    Started,
    Done,
}

/// Everything the agent knows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Overview {
    pub attachments: BTreeMap<String, AttachmentStatus>,
    pub pools: BTreeMap<String, Pool>,
    pub legs: BTreeMap<String, Leg>,
}

/// A pool of this node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pool {
    pub fault: Option<String>,
}

/// A leg that this node serves, or should.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Leg {
    pub served: bool,
    pub fault: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    error: Option<String>,
}

impl Agent {
    /// An attachment as the agent sees it; `None`: it has no such order.
    ///
    /// # Errors
    /// The agent is away or speaks another language.
    pub async fn attachment(&self, name: &str) -> Result<Option<AttachmentStatus>, AgentError> {
        match self.ask(json!({"command": "status", "name": name})).await {
            Ok(status) => Ok(Some(status)),
            // The only refusal of this question.
            Err(AgentError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything that the agent does.
    ///
    /// # Errors
    /// The agent is away or speaks another language.
    pub async fn overview(&self) -> Result<Overview, AgentError> {
        self.ask(json!({"command": "status"})).await
    }

    /// Records on every member how far the file system is; durable on return.
    ///
    /// # Errors
    /// The agent is away, or one of the legs is.
    pub async fn record_format(
        &self,
        name: &str,
        step: FormatStep,
        fs_type: &str,
    ) -> Result<(), AgentError> {
        let state = match step {
            FormatStep::Started => "started",
            FormatStep::Done => "done",
        };
        let order = json!({"command": "format", "name": name, "state": state, "fsType": fs_type});
        self.ask::<Value>(order).await.map(drop)
    }

    /// Says that the node does not use the device any more.
    ///
    /// # Errors
    /// The agent is away, or of a version that does not know the question.
    pub async fn unused(&self, name: &str) -> Result<(), AgentError> {
        let told = json!({"command": "unused", "name": name});
        self.ask::<Value>(told).await.map(drop)
    }

    /// Says that the node is about to use the device. `true`: it is open, and is not released before it is unused again.
    ///
    /// # Errors
    /// The agent is away, or of a version that does not know the question.
    pub async fn used(&self, name: &str) -> Result<bool, AgentError> {
        self.ask(json!({"command": "used", "name": name})).await
    }

    async fn ask<T: DeserializeOwned>(&self, question: Value) -> Result<T, AgentError> {
        let asked = tokio::time::timeout(ANSWER_TIME, self.converse(question)).await;
        let line = asked
            .map_err(|_| AgentError::Late)?
            .map_err(|source| AgentError::Away {
                socket: self.socket.clone(),
                source,
            })?;
        let answer: Answer = serde_json::from_str(&line).map_err(AgentError::Answer)?;
        if !answer.ok {
            return Err(AgentError::Refused(answer.error.unwrap_or_default()));
        }
        serde_json::from_value(answer.result).map_err(AgentError::Answer)
    }

    async fn converse(&self, question: Value) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut line = String::new();
        let length = BufReader::new(stream.take(MAX_ANSWER))
            .read_line(&mut line)
            .await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// An agent that gives this answer to one question, and the question.
    async fn answering(answer: &'static str) -> (Agent, tokio::task::JoinHandle<String>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = tokio::spawn(async move {
            let _folder = folder;
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            line
        });
        (Agent { socket }, asked)
    }

    #[tokio::test]
    async fn questions_and_answers_are_lines_of_json() {
        let (agent, asked) = answering("{\"ok\":true,\"result\":{\"state\":\"Attached\"}}\n").await;
        let status = agent.attachment("w").await.unwrap().unwrap();
        assert_eq!(status.state, twinsite_api::AttachmentState::Attached);
        assert_eq!(
            asked.await.unwrap(),
            "{\"command\":\"status\",\"name\":\"w\"}\n"
        );
        let (agent, asked) = answering("{\"ok\":true}\n").await;
        agent.unused("w").await.unwrap();
        assert_eq!(
            asked.await.unwrap(),
            "{\"command\":\"unused\",\"name\":\"w\"}\n"
        );
        let (agent, asked) = answering("{\"ok\":true,\"result\":false}\n").await;
        assert!(!agent.used("w").await.unwrap());
        assert_eq!(
            asked.await.unwrap(),
            "{\"command\":\"used\",\"name\":\"w\"}\n"
        );
        let (agent, asked) = answering("{\"ok\":true}\n").await;
        let recorded = agent.record_format("w", FormatStep::Started, "xfs").await;
        recorded.unwrap();
        assert_eq!(
            asked.await.unwrap(),
            "{\"command\":\"format\",\"fsType\":\"xfs\",\"name\":\"w\",\"state\":\"started\"}\n"
        );
    }

    #[tokio::test]
    async fn an_unknown_attachment_is_none_and_an_agent_that_is_away_an_error() {
        let (agent, _asked) = answering("{\"ok\":false,\"error\":\"no\"}\n").await;
        assert!(agent.attachment("w").await.unwrap().is_none());
        let (agent, _asked) = answering("").await;
        let away = agent.attachment("w").await;
        assert!(matches!(away, Err(AgentError::Away { .. })), "{away:?}");
        let (agent, _asked) = answering("{\"ok\":true,\"result\":7}\n").await;
        let strange = agent.attachment("w").await;
        assert!(matches!(strange, Err(AgentError::Answer(_))), "{strange:?}");
        let agent = Agent {
            socket: "/nonexistent/agent.sock".into(),
        };
        assert!(matches!(
            agent.overview().await,
            Err(AgentError::Away { .. })
        ));
    }
}
