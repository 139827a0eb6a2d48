use bei_proto::tei::v1;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::Services;
use crate::grpc::messages::{context, metadata, one, only, options, response, status_by};
use crate::grpc::stream::{Answers, answers};
use crate::inference::Job;
use crate::inputs::Input;
use crate::timing::Timing;
use crate::work::Context;

impl Services {
    async fn classes(
        &self,
        request: v1::PredictPairRequest,
        context: Context,
    ) -> Result<(v1::PredictResponse, Timing), Status> {
        let failed = status_by(context.deadline);
        let options = options(&self.app, request.truncate, request.truncation_direction, None)?;
        let mut texts = request.inputs.into_iter();
        let input = match (texts.next(), texts.next(), texts.len()) {
            (Some(text), None, 0) => Input::Text(text),
            (Some(text), Some(pair), 0) => Input::Pair(text, pair),
            (first, _, more) => {
                let given = if first.is_some() { more + 2 } else { 0 };
                return Err(Status::invalid_argument(format!(
                    "`inputs` must have a single or two elements. Given: {given}"
                )));
            }
        };
        let job = Job::new(one(input), "inputs", options);
        let (scores, timing) = self.app.scores(job, request.raw_scores, context).await.map_err(failed)?;
        let predictions = self.app.by_score(only(scores)?);
        let prediction =
            |(score, label): (f32, std::sync::Arc<str>)| v1::Prediction { score, label: label.to_string() };
        let predictions = predictions.into_iter().map(prediction).collect();
        Ok((v1::PredictResponse { predictions, metadata: metadata(&timing) }, timing))
    }
}

fn pair(request: v1::PredictRequest) -> v1::PredictPairRequest {
    let v1::PredictRequest { inputs, truncate, raw_scores, truncation_direction } = request;
    v1::PredictPairRequest { inputs: vec![inputs], truncate, raw_scores, truncation_direction }
}

#[tonic::async_trait]
impl v1::predict_server::Predict for Services {
    type PredictStreamStream = Answers<v1::PredictResponse>;
    type PredictPairStreamStream = Answers<v1::PredictResponse>;

    async fn predict(
        &self,
        request: Request<v1::PredictRequest>,
    ) -> Result<Response<v1::PredictResponse>, Status> {
        self.predict_pair(request.map(pair)).await
    }

    async fn predict_pair(
        &self,
        request: Request<v1::PredictPairRequest>,
    ) -> Result<Response<v1::PredictResponse>, Status> {
        let context = context(&request)?;
        let (answer, timing) = self.classes(request.into_inner(), context).await?;
        Ok(response(&self.app, answer, &timing))
    }

    async fn predict_stream(
        &self,
        request: Request<Streaming<v1::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, context| {
            let services = services.clone();
            async move { Ok(services.classes(pair(request), context).await?.0) }
        })
    }

    async fn predict_pair_stream(
        &self,
        request: Request<Streaming<v1::PredictPairRequest>>,
    ) -> Result<Response<Self::PredictPairStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, context| {
            let services = services.clone();
            async move { Ok(services.classes(request, context).await?.0) }
        })
    }
}
