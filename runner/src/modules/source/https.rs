//! Modules on web servers: `https://…`, followed to where they are, asked again by their ETag.

use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::modules::source::MAX_SIGNATURE;
use crate::modules::source::get::{Answer, Client, Failed, Question, REDIRECTS};
use crate::modules::source::web::{Fetched, Known, Wanted, hash};
use crate::task::outcome::ErrorCode;
use crate::task::remote::HttpsRef;

pub(super) async fn fetch(
    client: &Client,
    module: &HttpsRef,
    wanted: &Wanted,
    known: Option<&Known>,
) -> Result<Fetched, Failed> {
    let tag = known.and_then(|known| HeaderValue::from_str(known.validator.as_deref()?).ok());
    let ask: Vec<(HeaderName, HeaderValue)> =
        tag.into_iter().map(|tag| (IF_NONE_MATCH, tag)).collect();
    let answer = follow(client, module, &module.path, wanted, wanted.most, &ask).await?;
    let unchanged = known.filter(|_| answer.status == StatusCode::NOT_MODIFIED);
    let (content, validator) = match unchanged {
        Some(known) => (known.content.clone(), known.validator.clone()),
        None if answer.status == StatusCode::OK => {
            let validator = answer.header(ETAG.as_str()).map(str::to_owned);
            (hash(answer.body).await?, validator)
        }
        None => return Err(answer.unexpected(&module.target)),
    };
    if let Some(pin) = module.pin
        && content.digest != pin
    {
        let digest = content.digest;
        let why = format!("it is {digest}, the task pins {pin}");
        return Err(Failed::new(ErrorCode::DigestMismatch, why));
    }
    let signature = match wanted.signed {
        false => None,
        true => {
            let (path, query) = module.path.split_once('?').unwrap_or((&module.path, ""));
            let mark = if query.is_empty() { "" } else { "?" };
            let beside = format!("{path}.minisig{mark}{query}");
            let answer = follow(client, module, &beside, wanted, MAX_SIGNATURE, &[]).await?;
            match answer.status {
                StatusCode::OK => Some(answer.body.into()),
                StatusCode::NOT_FOUND | StatusCode::GONE => None,
                _ => return Err(answer.unexpected(&module.target)),
            }
        }
    };
    Ok(Fetched {
        content,
        signature,
        validator,
        // What a digest names does not change; its signature may come later.
        forever: module.pin.is_some() && !wanted.signed,
    })
}

/// Follows redirects, each to a host that the tenant may fetch from and an address that it may reach.
async fn follow(
    client: &Client,
    module: &HttpsRef,
    path: &str,
    wanted: &Wanted,
    most: u64,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Answer, Failed> {
    let (mut target, mut path) = (module.target.clone(), path.to_owned());
    for _ in 0..=REDIRECTS {
        let may = wanted.remotes.may_reach(&target, module.pin.is_some());
        may.map_err(|why| Failed::new(ErrorCode::TenantDenied, why))?;
        let question = Question {
            target: &target,
            path: &path,
            headers,
            most,
            anywhere: false,
        };
        let answer = client.get(&question).await?;
        match answer.redirect(&target, &path)? {
            None => return Ok(answer),
            Some(there) => (target, path) = there,
        }
    }
    let why = format!("it is redirected more than {REDIRECTS} times");
    Err(Failed::unavailable(why))
}
