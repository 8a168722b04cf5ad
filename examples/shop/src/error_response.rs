//! Error responses, as JSON.

use crate::AnyError;
use crate::records::Id;
use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error response: a status, and a text for the field `error`.
pub(crate) struct ErrorResponse {
    status: StatusCode,
    error: String,
}

impl ErrorResponse {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { status, error }
    }

    /// Creates a response with status 400.
    pub(crate) fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// Creates a response with status 404.
    pub(crate) fn missing(collection: &str, id: Id) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            format!("/{collection}/{id} does not exist"),
        )
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}

/// Reports errors of the database with status 503.
impl From<AnyError> for ErrorResponse {
    fn from(error: AnyError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}"))
    }
}

impl From<PathRejection> for ErrorResponse {
    fn from(_: PathRejection) -> Self {
        Self::bad("an id is a whole number, as in /products/7")
    }
}

impl From<BytesRejection> for ErrorResponse {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
