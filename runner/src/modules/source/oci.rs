//! Modules in registries: `oci://…`, the artifact that wkg and wasmCloud push: a manifest with one layer of wasm.
//!
//! Manifest and layer are hashed here; what the registry says of them counts for nothing. Not oci-client: it reads
//! manifests and error pages however large they are, and follows redirects to anywhere.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use crate::grants::hosts::{HostPattern, Target};
use crate::modules::Content;
use crate::modules::source::MAX_SIGNATURE;
use crate::modules::source::credentials::{Credentials, Login};
use crate::modules::source::get::{Answer, Client, Failed, Question, REDIRECTS};
use crate::modules::source::web::{Fetched, Known, Wanted, hash};
use crate::task::outcome::ErrorCode;
use crate::task::remote::OciRef;
use crate::task::{Digest, quoted};

/// The annotation of a manifest that has the module's signature, the text of a `.minisig` file.
pub(super) const SIGNATURE: &str = "vnd.wasmqtt.minisig";
/// The largest manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;
/// The largest answer of a token service, in bytes.
const MAX_TOKEN: u64 = 64 << 10;
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// What layers of wasm are called: by the artifact layout, and before there was one.
const LAYERS: [&str; 3] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
];

pub(super) struct Registry<'a> {
    pub(super) client: &'a Client,
    pub(super) credentials: &'a Credentials,
    pub(super) insecure: &'a [HostPattern],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    size: u64,
}

/// One conversation: once the registry wanted to know who asks, it is told each time.
struct Session<'a> {
    registry: &'a Registry<'a>,
    module: &'a OciRef,
    target: Target,
    authorization: Option<HeaderValue>,
}

impl Registry<'_> {
    pub(super) async fn fetch(
        &self,
        module: &OciRef,
        wanted: &Wanted,
        known: Option<&Known>,
    ) -> Result<Fetched, Failed> {
        let mut session = Session {
            registry: self,
            module,
            target: self.target(&module.registry),
            authorization: None,
        };
        let (digest, manifest) = session.manifest().await?;
        let content = match known.filter(|it| it.validator == Some(digest.to_string())) {
            Some(known) => known.content.clone(),
            None => session.layer(layer(&manifest)?, wanted.most).await?,
        };
        let signature = manifest.annotations.get(SIGNATURE);
        let signature = signature.filter(|text| text.len() as u64 <= MAX_SIGNATURE);
        Ok(Fetched {
            content,
            signature: signature
                .filter(|_| wanted.signed)
                .map(|text| text.clone().into()),
            validator: Some(digest.to_string()),
            // A tag may move away from its pin, which is then to be noticed.
            forever: module.pin.is_some() && module.tag.is_none(),
        })
    }

    /// Where it really is.
    fn target(&self, named: &Target) -> Target {
        let insecure = self.insecure.iter().any(|host| host.matches(named));
        let host = match named.host.as_str() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            host => host.to_owned(),
        };
        let port = match (insecure, named.port) {
            (true, 443) => 80,
            (_, port) => port,
        };
        let tls = !insecure;
        Target { tls, host, port }
    }
}

impl Session<'_> {
    async fn manifest(&mut self) -> Result<(Digest, Manifest), Failed> {
        let wanted = self.module.wanted();
        let path = format!("/v2/{}/manifests/{wanted}", self.module.repository);
        let answer = self.get(&path, MANIFESTS, MAX_MANIFEST).await?;
        let said = answer.header("docker-content-digest").map(str::to_owned);
        let manifest = hash(answer.body).await?;
        let digest = manifest.digest;
        let mismatch = |why| Err(Failed::new(ErrorCode::DigestMismatch, why));
        if let Some(pin) = self.module.pin
            && digest != pin
        {
            let moved = match &self.module.tag {
                Some(tag) => format!("the manifest of tag {}", quoted(tag)),
                None => "the manifest".to_owned(),
            };
            return mismatch(format!("{moved} is {digest}, the task pins {pin}"));
        }
        if let Some(said) = said.filter(|said| *said != digest.to_string()) {
            let said = quoted(&said);
            return mismatch(format!(
                "the manifest is {digest}, the registry says {said}"
            ));
        }
        let read = serde_json::from_slice(&manifest.bytes).map_err(|error| {
            let why = format!("its manifest {digest} is none of a module: {error}");
            Failed::new(ErrorCode::ModuleInvalid, why)
        });
        Ok((digest, read?))
    }

    async fn layer(&mut self, layer: &Layer, most: u64) -> Result<Content, Failed> {
        let Layer { digest, size, .. } = layer;
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let Ok(meant) = Digest::parse_hex(hex) else {
            let why = format!("its layer's digest is no sha256: {}", quoted(digest));
            return Err(Failed::new(ErrorCode::ModuleInvalid, why));
        };
        if *size > most {
            let why = format!("its layer has {size} bytes, of at most {most}");
            return Err(Failed::new(ErrorCode::ModuleTooCostly, why));
        }
        let path = format!("/v2/{}/blobs/{meant}", self.module.repository);
        let answer = self.get(&path, "*/*", *size).await?;
        let got = answer.body.len() as u64;
        if got < *size {
            let why = format!("its layer {meant} ended after {got} of {size} bytes");
            return Err(Failed::unavailable(why));
        }
        let content = hash(answer.body).await?;
        if content.digest != meant {
            let got = content.digest;
            let why = format!("its layer is {got}, its manifest says {meant}");
            return Err(Failed::new(ErrorCode::DigestMismatch, why));
        }
        Ok(content)
    }

    /// Asks the registry; when it wants to know who asks, once more.
    async fn get(&mut self, path: &str, accept: &'static str, most: u64) -> Result<Answer, Failed> {
        let (mut answer, mut from) = self.follow(path, accept, most).await?;
        // Whom it redirects to may not ask that: its challenge would name who is told the credentials.
        let asked = answer.status == StatusCode::UNAUTHORIZED && from == self.target;
        if asked && self.authorization.is_none() {
            let challenge = answer.header(WWW_AUTHENTICATE.as_str()).unwrap_or_default();
            self.authorization = self.authorize(challenge).await?;
            if self.authorization.is_some() {
                (answer, from) = self.follow(path, accept, most).await?;
            }
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            _ => Err(answer.unexpected(&from)),
        }
    }

    /// Follows redirects, to public addresses and without telling them who asks; what comes, and from where.
    async fn follow(
        &self,
        path: &str,
        accept: &'static str,
        most: u64,
    ) -> Result<(Answer, Target), Failed> {
        let (mut target, mut path) = (self.target.clone(), path.to_owned());
        for _ in 0..=REDIRECTS {
            let home = target == self.target;
            let accepted = (ACCEPT, HeaderValue::from_static(accept));
            let told = self.authorization.clone().filter(|_| home);
            let headers: Vec<(HeaderName, HeaderValue)> = [accepted]
                .into_iter()
                .chain(told.map(|told| (AUTHORIZATION, told)))
                .collect();
            let question = Question {
                target: &target,
                path: &path,
                headers: &headers,
                most,
                anywhere: home,
            };
            let answer = self.registry.client.get(&question).await?;
            match answer.redirect(&target, &path)? {
                None => return Ok((answer, target)),
                Some(there) => (target, path) = there,
            }
        }
        let why = format!("it is redirected more than {REDIRECTS} times");
        Err(Failed::unavailable(why))
    }

    /// What a challenge is answered with; `None` when there is nothing.
    async fn authorize(&self, challenge: &str) -> Result<Option<HeaderValue>, Failed> {
        let login = self.registry.credentials.of(&self.module.registry).await?;
        let basic = login.as_ref().map(basic).transpose()?;
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Ok(basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Ok(None);
        }
        let parameters = parameters_of(parameters);
        let realm = parameters.get("realm").map_or("", String::as_str);
        let refused = |why: &str| {
            let why = format!("the registry asks for a token of {}: {why}", quoted(realm));
            Failed::new(ErrorCode::TenantDenied, why)
        };
        let (scheme, rest) = realm.split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let target = Target::parse(scheme == "https", authority).map_err(|why| refused(&why))?;
        // In the clear only where everything is.
        if !matches!(scheme, "https" | "http") || (!target.tls && target != self.target) {
            return Err(refused("that is not https"));
        }
        let scope = format!("repository:{}:pull", self.module.repository);
        let scope = parameters.get("scope").unwrap_or(&scope);
        let service = parameters.get("service").map_or("", String::as_str);
        let mark = if path.contains('?') { '&' } else { '?' };
        let path = format!(
            "{path}{mark}service={}&scope={}",
            escaped(service),
            escaped(scope)
        );
        let headers: Vec<_> = basic.into_iter().map(|it| (AUTHORIZATION, it)).collect();
        let question = Question {
            target: &target,
            path: &path,
            headers: &headers,
            most: MAX_TOKEN,
            anywhere: target == self.target,
        };
        let answer = self.registry.client.get(&question).await?;
        if answer.status != StatusCode::OK {
            let status = answer.status.as_u16();
            let why = format!("{target} gives no token: {status}");
            return Err(Failed {
                refused: answer.refuses(),
                ..Failed::unavailable(why)
            });
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let none = || Failed::unavailable(format!("{target} gives no token"));
        let token: Token = serde_json::from_slice(&answer.body).map_err(|_| none())?;
        let token = token.token.or(token.access_token).ok_or_else(none)?;
        secret(format!("Bearer {token}")).map(Some)
    }
}

/// The one layer that is a module.
fn layer(manifest: &Manifest) -> Result<&Layer, Failed> {
    let is_wasm = |layer: &&Layer| LAYERS.contains(&layer.media_type.as_str());
    let found: Vec<&Layer> = manifest.layers.iter().filter(is_wasm).collect();
    match found[..] {
        [layer] => Ok(layer),
        _ => {
            let kinds = manifest
                .layers
                .iter()
                .map(|layer| layer.media_type.as_str());
            let kinds = quoted(&kinds.collect::<Vec<_>>().join(", "));
            let why = format!("its manifest has not one layer of application/wasm, but {kinds}");
            Err(Failed::new(ErrorCode::ModuleInvalid, why))
        }
    }
}

fn basic(login: &Login) -> Result<HeaderValue, Failed> {
    let pair = format!("{}:{}", login.user, login.password);
    secret(format!("Basic {}", STANDARD.encode(pair)))
}

/// A header that is not printed.
fn secret(value: String) -> Result<HeaderValue, Failed> {
    let value = HeaderValue::try_from(value);
    let mut value = value.map_err(|_| Failed::unavailable("its credentials fit no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `name="value", …`, as a challenge has them.
fn parameters_of(text: &str) -> BTreeMap<String, String> {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(name, value.to_owned());
        rest = after;
    }
    parameters
}

/// A value in a query.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for byte in value.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b) => escaped.push(byte.into()),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text = r#"realm="https://auth.example.com/token?a=b",service="reg, istry",scope="repository:a/b:pull",error=x"#;
        let read = parameters_of(text);
        let read: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let meant = [
            ("error", "x"),
            ("realm", "https://auth.example.com/token?a=b"),
            ("scope", "repository:a/b:pull"),
            ("service", "reg, istry"),
        ];
        assert_eq!(read, meant);
        for odd in ["", "=", "a", "a=\"", ",,,=,", "a=b=c\"\""] {
            parameters_of(odd);
        }
        assert_eq!(escaped("a b&c=d:e/f"), "a%20b%26c%3Dd:e/f");
    }
}
