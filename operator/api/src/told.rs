//! How an error is told: in its own words and those of its causes. Libraries differ in whether an error repeats its cause, so what
//! was said already is not said again.

use std::error::Error;

/// An error with its causes, each once.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = words(next);
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

/// The client for clusters shows the whole answer of an API server behind the sentence that is in it.
fn words(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.split_once(" (Status {") {
        Some((sentence, _)) => sentence.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Layer {
        #[error("cannot read the file: {0}")]
        Repeats(#[source] std::io::Error),
        #[error("no kubeconfig")]
        Silent(#[source] Box<Self>),
        #[error(
            "ApiError: it is forbidden: Forbidden (Status {{ code: 403, message: \"it is forbidden\" }})"
        )]
        Answer,
    }

    #[test]
    fn of_the_answer_of_an_api_server_its_sentence_is_told() {
        let text = told(&Layer::Silent(Box::new(Layer::Answer)));
        assert_eq!(text, "no kubeconfig: ApiError: it is forbidden: Forbidden");
    }

    #[test]
    fn each_cause_is_told_once() {
        let gone = || std::io::Error::from_raw_os_error(2);
        let error = Layer::Silent(Box::new(Layer::Repeats(gone())));
        let text = told(&error);
        assert_eq!(
            text,
            format!("no kubeconfig: cannot read the file: {}", gone())
        );
        assert_eq!(told(&gone()), gone().to_string());
    }
}
