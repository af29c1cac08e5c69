//! Error messages.

use std::error::Error;

/// Returns an error with its causes in one line, leaving out causes that repeat it.
pub fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn causes_are_named_once_each() {
        let cause = io::Error::other("no space");
        let error = anyhow::Error::new(cause)
            .context("writing /a: no space")
            .context("saving");
        assert_eq!(one_line(&*error), "saving: writing /a: no space");
        let error = anyhow::anyhow!("no space").context("saving");
        assert_eq!(one_line(&*error), "saving: no space");
    }
}
