//! Asks a service by its admin API.
//!
//! It is made of the HTTP that serves the API: plain HTTP/1, a connection a request, no redirects. An answer is bounded in
//! size and time, and nothing that it says reaches an error unescaped.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::{Host, Url};

use crate::config::{self, Config, Listen};
use crate::text::printable;

/// How long an answer may take, from the connection to its last byte.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The largest file with a token.
const MAX_TOKEN_BYTES: u64 = 4 << 10;

/// Where the services are, and who asks them.
#[derive(Args, Clone, Debug)]
pub struct Services {
    /// The admin API of a service, such as http://127.0.0.1:8700; again for each replica [default: ADMIN_URL, or else
    /// the ADMIN_LISTEN of the settings]
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<String>,
    /// A file with the token that the service wants [default: ADMIN_URL_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Settings file, for ADMIN_LISTEN; without it, sluicegate.toml is read if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Services {
    /// Returns a client for each service, and one at least.
    pub fn clients(&self) -> Result<Vec<Client>, Error> {
        let token_file =
            self.token_file.clone().or_else(|| variable("ADMIN_URL_TOKEN_FILE").map(PathBuf::from));
        let token = token_file.map(|file| Token::read(&file)).transpose()?;
        let urls = match (self.urls.is_empty(), variable("ADMIN_URL")) {
            (false, _) => self.urls.clone(),
            (true, Some(url)) => vec![url],
            (true, None) => vec![url_of(Config::load(self.config.as_deref())?.admin_listen)?],
        };
        urls.iter().map(|url| Client::new(url, token.as_ref())).collect()
    }
}

/// Returns a variable of the environment; an empty one counts as unset.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns where a service of these settings is to be asked, on this machine.
fn url_of(listen: Listen) -> Result<String, Error> {
    match listen {
        Listen::At(mut address) if address.port() != 0 => {
            match address.ip() {
                IpAddr::V4(any) if any.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(any) if any.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            Ok(format!("http://{address}"))
        }
        listen => Err(Error::NoAddress(listen)),
    }
}

/// Why a service did not tell what it was asked. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] config::Error),
    #[error("ADMIN_LISTEN is {0} in the settings, where nobody can be asked; name the service by --url")]
    NoAddress(Listen),
    #[error("{found:?} is no URL of an admin API: {problem}; wanted one such as http://127.0.0.1:8700")]
    Url { found: String, problem: String },
    #[error("the file {file} with the token: {problem}")]
    Token { file: String, problem: String },
    #[error(
        "{service} cannot be reached: {source}; wanted the address at which a service listens (its ADMIN_LISTEN)"
    )]
    Unreachable { service: String, source: io::Error },
    #[error("{service} has not answered within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent { service: String },
    #[error("{service} does not answer as an admin API does: {problem}")]
    Broken { service: String, problem: String },
    #[error("{service} wants a token; name a file that holds one, by --token-file")]
    NoToken { service: String },
    #[error("{service} does not know this token; wanted one whose SHA-256 stands in its ADMIN_TOKENS_FILE")]
    WrongToken { service: String },
    #[error("{service} answers {status}: {detail}")]
    Refused { service: String, status: StatusCode, detail: String },
}

impl Error {
    /// Returns whether the command line is wrong, or a file that it names.
    pub fn is_of_command_line(&self) -> bool {
        match self {
            Self::Settings(error) => error.is_of_command_line(),
            Self::Url { .. } | Self::Token { .. } => true,
            _ => false,
        }
    }
}

/// A service that can be asked.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    /// The host and the port, as the header `Host` has them.
    authority: String,
    /// The header with the token, which is never shown.
    authorization: Option<HeaderValue>,
}

/// A token that a service asks for.
#[derive(Clone, Debug)]
pub struct Token(HeaderValue);

impl Token {
    /// Reads a token from a file that holds nothing else.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let failed = |problem: String| Error::Token { file: file.display().to_string(), problem };
        let unreadable = |error: io::Error| failed(format!("{error}; wanted one that this user may read"));
        let mut text = Vec::new();
        let opened = std::fs::File::open(file).map_err(unreadable)?;
        opened.take(MAX_TOKEN_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        let text = text.trim_ascii();
        if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
            return Err(failed(
                "wanted a token in it, of visible ASCII characters, and nothing else".to_owned(),
            ));
        }
        let header = HeaderValue::from_bytes(&[b"Bearer ", text].concat());
        let mut header = header.map_err(|error| failed(error.to_string()))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

/// What a service answers, as it comes. The connection is closed with it.
pub struct Answer {
    response: Response<Incoming>,
    _connection: AbortOnDropHandle<()>,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns the body, which the caller bounds in size and time.
    pub fn body(&mut self) -> &mut Incoming {
        self.response.body_mut()
    }
}

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    #[error("it does not answer as a server does: {0}")]
    Broken(#[from] hyper::Error),
}

/// Sends a request to the server of this URL, on a connection of its own.
pub(crate) async fn exchange<B>(url: &Url, request: Request<B>) -> Result<Answer, ExchangeError>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = match url.host() {
        Some(Host::Domain(name)) => TcpStream::connect((name, port)).await?,
        Some(Host::Ipv4(address)) => TcpStream::connect((address, port)).await?,
        Some(Host::Ipv6(address)) => TcpStream::connect((address, port)).await?,
        None => return Err(io::Error::other("it names no host").into()),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its error is the answer's as well.
    let driven = tokio::spawn(async { connection.await.unwrap_or_default() });
    let connection = AbortOnDropHandle::new(driven);
    let response = sender.send_request(request).await?;
    Ok(Answer { response, _connection: connection })
}

impl Client {
    /// Asks at this URL, with this token if there is one.
    pub fn new(url: &str, token: Option<&Token>) -> Result<Self, Error> {
        // A URL with a password in it is repeated nowhere.
        let found = if url.contains('@') { "…" } else { url }.to_owned();
        let no_url = |problem: &str| Error::Url { found: found.clone(), problem: problem.to_owned() };
        let base = Url::parse(url).map_err(|error| no_url(&error.to_string()))?;
        if base.scheme() != "http" {
            return Err(no_url("its scheme is not http, and TLS is not spoken"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(no_url("it has a user or a password, and tokens come from --token-file"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(no_url("it has a query or a fragment"));
        }
        let authority = base.authority().to_owned();
        Ok(Self { base, authority, authorization: token.map(|Token(header)| header.clone()) })
    }

    /// Returns the host and the port, as errors name the service.
    pub fn service(&self) -> &str {
        &self.authority
    }

    /// Returns where the service is.
    pub fn url(&self) -> &Url {
        &self.base
    }

    /// Asks for the page with this path, part by part, and reads its JSON.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        let asked = async {
            let mut answer = self.open(path).await?;
            let body = Limited::new(answer.body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| self.broken(error.as_ref()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| self.broken(&error))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| self.silent())?
    }

    /// Asks for a page, and returns the answer when its head is there, if it is a good one.
    pub async fn open(&self, path: &[&str]) -> Result<Answer, Error> {
        let asked = async {
            let answer = self.send(self.request(path)?).await?;
            match answer.response.status() {
                StatusCode::OK => Ok(answer),
                StatusCode::UNAUTHORIZED if self.authorization.is_none() => {
                    Err(Error::NoToken { service: self.authority.clone() })
                }
                StatusCode::UNAUTHORIZED => Err(Error::WrongToken { service: self.authority.clone() }),
                status => Err(self.refused(status, answer).await),
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| self.silent())?
    }

    fn request(&self, path: &[&str]) -> Result<Request<Empty<Bytes>>, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = Request::get(url.path())
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json");
        let request = match &self.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        };
        request.body(Empty::new()).map_err(|error| self.broken(&error))
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Answer, Error> {
        exchange(&self.base, request).await.map_err(|error| match error {
            ExchangeError::Unreachable(source) => {
                Error::Unreachable { service: self.authority.clone(), source }
            }
            ExchangeError::Broken(error) => self.broken(&error),
        })
    }

    /// Reads what a service says of an error.
    async fn refused(&self, status: StatusCode, mut answer: Answer) -> Error {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
        }
        let body = Limited::new(answer.body(), MAX_ANSWER_BYTES).collect().await;
        let problem = body.ok().and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
        let detail = problem
            .map_or("it is no admin API of a Sluicegate of this version".to_owned(), |problem| {
                printable(&problem.detail).into_owned()
            });
        Error::Refused { service: self.authority.clone(), status, detail }
    }

    fn broken(&self, error: &dyn std::error::Error) -> Error {
        let problem = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Error::Broken { service: self.authority.clone(), problem: printable(&problem).into_owned() }
    }

    fn silent(&self) -> Error {
        Error::Silent { service: self.authority.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_will_not_do_says_why() {
        for (url, part) in [
            ("", "relative URL"),
            ("127.0.0.1:8700", "relative URL"),
            ("localhost:8700", "scheme"),
            ("https://localhost:8700", "TLS is not spoken"),
            ("http://localhost:8700/?token=a", "query"),
            ("http://root:hunter2@localhost", "user or a password"),
        ] {
            let error = Client::new(url, None).expect_err(url).to_string();
            assert!(error.contains(part) && error.contains("wanted one such as http://"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        for (url, path) in [
            ("http://[::1]:8700", "/v1/tenants"),
            ("http://proxy/sluicegate/", "/sluicegate/v1/tenants"),
            ("http://proxy/sluicegate", "/sluicegate/v1/tenants"),
        ] {
            let client = Client::new(url, None).expect(url);
            assert_eq!(client.request(&["v1", "tenants"]).expect("a request").uri().path(), path);
        }
        let client = Client::new("http://localhost", None).expect("a URL");
        let hostile = client.request(&["v1", "a/../b\r\nX: y"]).expect("a request");
        assert_eq!(hostile.uri().path(), "/v1/a%2F..%2FbX:%20y", "a name stays one part");
    }

    #[test]
    fn a_service_of_this_machine_is_found_by_its_settings() {
        for (listen, url) in [
            ("127.0.0.1:8700", "http://127.0.0.1:8700"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:8700", "http://[::1]:8700"),
            ("10.0.0.7:8700", "http://10.0.0.7:8700"),
        ] {
            assert_eq!(url_of(listen.parse().expect("an address")).expect("a URL"), url);
        }
        for listen in ["off", "127.0.0.1:0"] {
            let error = url_of(listen.parse().expect("an address")).expect_err(listen).to_string();
            assert!(error.contains(listen) && error.contains("--url"), "{error}");
        }
    }

    #[test]
    fn a_token_is_shown_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        assert!(Token::read(&file).expect_err("no file").to_string().contains("this user may read"));
        for bad in ["", "\n", "hunter2 hunter2", "hunter2\nhunter2", "hunter\u{e9}2"] {
            std::fs::write(&file, bad).expect("written");
            let error = Token::read(&file).expect_err(bad).to_string();
            assert!(error.contains("visible ASCII") && !error.contains("hunter"), "{error}");
        }
        std::fs::write(&file, "hunter2\n").expect("written");
        let client = Client::new("http://localhost", Some(&Token::read(&file).expect("a token")));
        assert!(!format!("{client:?}").contains("hunter2"), "{client:?}");
        let request = client.expect("a client").request(&[]).expect("a request");
        assert_eq!(request.headers().get(AUTHORIZATION).expect("a token"), "Bearer hunter2");
    }
}
