//! Errors of requests, in the form of OpenAI's API.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::engine::RequestError;
use crate::error::{Error, ErrorKind};

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// The field that is at fault.
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }
    /// A field has a value that cannot be used.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }
    /// Another model is asked for.
    pub fn no_model(message: String) -> Self {
        Self { param: Some("model".into()), ..Self::new(StatusCode::NOT_FOUND, message) }.code("model_not_found")
    }
    #[must_use]
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }
    /// The prompt has too many tokens for the model.
    pub fn too_long(tokens: usize, context: usize) -> Self {
        let message = format!(
            "the prompt has {tokens} tokens, and the model's context of {context} tokens must hold it and an answer; \
             shorten the prompt"
        );
        Self::field("prompt", message).code("context_length_exceeded")
    }
    /// The engine has no answer to a request.
    pub fn of_request(e: RequestError) -> Self {
        let param = match e.code {
            "not_finite" => return Self::new(StatusCode::INTERNAL_SERVER_ERROR, e.message).code("not_finite"),
            "no_scores" => "echo",
            "no_token" => "min_tokens",
            _ => "prompt",
        };
        let code = if e.code == "prompt_too_long" { "context_length_exceeded" } else { e.code };
        Self::field(param, e.message).code(code)
    }
    /// The server is being stopped.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").code("stopping")
    }
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        match e.kind() {
            ErrorKind::Cancelled => Self::stopping(),
            ErrorKind::User => {
                let help = e.help_text().map(|help| format!("; {help}")).unwrap_or_default();
                Self::new(StatusCode::BAD_REQUEST, format!("{e}{help}"))
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
