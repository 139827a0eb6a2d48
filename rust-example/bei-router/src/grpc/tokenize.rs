use bei_proto::tei::v1;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::Services;
use crate::grpc::messages::{one, only, status};
use crate::grpc::stream::{Answers, answers};
use crate::inputs::Input;
use crate::routes::text::Token;

impl Services {
    async fn tokens(&self, request: v1::EncodeRequest) -> Result<v1::EncodeResponse, Status> {
        let inputs = one(Input::Text(request.inputs));
        let tokens =
            self.app.tokens(inputs, request.add_special_tokens, request.prompt_name).await.map_err(status)?;
        let token =
            |Token { id, text, special, start, stop }| v1::SimpleToken { id, text, special, start, stop };
        Ok(v1::EncodeResponse { tokens: only(tokens)?.into_iter().map(token).collect() })
    }

    async fn text(&self, request: v1::DecodeRequest) -> Result<v1::DecodeResponse, Status> {
        let ids = one(Input::Ids(request.ids));
        let texts = self.app.texts(ids, request.skip_special_tokens).await.map_err(status)?;
        Ok(v1::DecodeResponse { text: only(texts)? })
    }
}

#[tonic::async_trait]
impl v1::tokenize_server::Tokenize for Services {
    type TokenizeStreamStream = Answers<v1::EncodeResponse>;
    type DecodeStreamStream = Answers<v1::DecodeResponse>;

    async fn tokenize(
        &self,
        request: Request<v1::EncodeRequest>,
    ) -> Result<Response<v1::EncodeResponse>, Status> {
        Ok(Response::new(self.tokens(request.into_inner()).await?))
    }

    async fn tokenize_stream(
        &self,
        request: Request<Streaming<v1::EncodeRequest>>,
    ) -> Result<Response<Self::TokenizeStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, _| {
            let services = services.clone();
            async move { services.tokens(request).await }
        })
    }

    async fn decode(
        &self,
        request: Request<v1::DecodeRequest>,
    ) -> Result<Response<v1::DecodeResponse>, Status> {
        Ok(Response::new(self.text(request.into_inner()).await?))
    }

    async fn decode_stream(
        &self,
        request: Request<Streaming<v1::DecodeRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, _| {
            let services = services.clone();
            async move { services.text(request).await }
        })
    }
}
