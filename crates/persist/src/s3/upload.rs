//! A new file in parts: it is there once all of them are, and the server is told so. The library that we use offers no condition
//! for that: that a file is written once rests on its name, which has a nonce; a look before refuses one that is used all the same.
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{
    MultipartId, PutPayload,
    multipart::{MultipartStore, PartId},
    path::Path,
};

use super::{
    FILES,
    bucket::Bucket,
    request::{self, Patience, within},
};
use crate::{NewFile, StoreError};

/// A server may put the parts together before it answers.
const COMPLETING: Patience = Patience { in_all: Duration::from_secs(120), one_request: Duration::from_secs(60) };

#[derive(Debug)]
pub(super) struct Upload {
    bucket: Arc<Bucket>,
    key: String,
    location: Path,
    id: MultipartId,
    /// Without the first.
    parts: Vec<PartId>,
    bytes: u64,
    is_finished: bool,
}

impl Upload {
    pub async fn begin(bucket: Arc<Bucket>, key: &str) -> Result<Self, StoreError> {
        let location = bucket.location(key)?;
        let begun = request::again(FILES, || within(FILES.one_request, bucket.client.create_multipart(&location))).await;
        let id = begun.map_err(|refusal| bucket.failed("writing", key, &refusal))?;
        Ok(Self { bucket, key: key.to_owned(), location, id, parts: vec![], bytes: 0, is_finished: false })
    }

    async fn put(&mut self, index: usize, piece: Bytes) -> Result<PartId, StoreError> {
        let length = piece.len() as u64;
        let (payload, limit) = (PutPayload::from(piece), FILES.for_bytes(length));
        let client = &self.bucket.client;
        let put = request::again(FILES, || within(limit, client.put_part(&self.location, &self.id, index, payload.clone()))).await;
        self.bytes += length;
        put.map_err(|refusal| self.bucket.failed("writing", &self.key, &refusal))
    }
}

#[async_trait]
impl NewFile for Upload {
    async fn append(&mut self, piece: Bytes) -> Result<(), StoreError> {
        let part = self.put(self.parts.len() + 1, piece).await?;
        self.parts.push(part);
        Ok(())
    }

    async fn finish(mut self: Box<Self>, first: Bytes) -> Result<(), StoreError> {
        let mut parts = vec![self.put(0, first).await?];
        parts.append(&mut self.parts);
        if self.bucket.size(&self.key, FILES).await?.is_some() {
            return Err(StoreError::Exists { object: self.bucket.object(&self.key) });
        }
        let client = &self.bucket.client;
        let complete = || client.complete_multipart(&self.location, &self.id, parts.clone());
        let completed = request::again(COMPLETING, || within(COMPLETING.one_request, complete())).await;
        if let Err(refusal) = completed
            // An earlier try may have got through, and only its answer was lost.
            && self.bucket.size(&self.key, FILES).await? != Some(self.bytes)
        {
            return Err(self.bucket.failed("writing", &self.key, &refusal));
        }
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Upload {
    /// Parts of a file that never was take room. Often it is given up because the server is away, which may pass.
    fn drop(&mut self) {
        let (false, Ok(runtime)) = (self.is_finished, tokio::runtime::Handle::try_current()) else { return };
        let (bucket, location, id) = (self.bucket.clone(), self.location.clone(), self.id.clone());
        runtime.spawn(async move {
            let abort = || within(FILES.one_request, bucket.client.abort_multipart(&location, &id));
            // An earlier try may have got through, and only its answer was lost.
            if let Err(refusal) = request::again(FILES, abort).await
                && !refusal.is_missing_object()
            {
                tracing::debug!(refusal = refusal.message, %location, "parts of a file that was given up stay on the server");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{S3Address, S3Settings};

    /// Answers one request, of which it tells the first line.
    async fn answered(server: &TcpListener, status: &str, body: &str) -> String {
        let (mut stream, _) = server.accept().await.expect("a request");
        let (mut request, mut piece) = (vec![], [0; 1024]);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = stream.read(&mut piece).await.expect("reads");
            assert!(count > 0, "it ends early");
            request.extend_from_slice(&piece[..count]);
        }
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.expect("answers");
        String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn what_is_given_up_while_the_server_is_busy_is_aborted_once_it_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let settings = S3Settings {
            endpoint: format!("http://{}", server.local_addr().expect("is bound")),
            region: "us-east-1".into(),
            access_key_id: "key".into(),
            secret_access_key: "secret".into(),
        };
        let bucket = Arc::new(Bucket::new(S3Address::parse("s3://lake").expect("reads"), &settings).expect("a client"));
        let begun = "<InitiateMultipartUploadResult><UploadId>7</UploadId></InitiateMultipartUploadResult>";
        let (upload, asked) = tokio::join!(Upload::begin(bucket, "parts/a"), answered(&server, "200 OK", begun));
        assert!(asked.starts_with("POST /lake/parts/a?uploads"), "{asked}");
        drop(upload.expect("begins"));
        for status in ["503 Service Unavailable", "204 No Content"] {
            let asked = answered(&server, status, "").await;
            assert!(asked.starts_with("DELETE /lake/parts/a?uploadId=7"), "{asked}");
        }
    }
}
