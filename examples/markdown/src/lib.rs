//! Markdown in, HTML out: CommonMark with tables, footnotes, strikethrough and task lists.
//!
//! Raw HTML in the input is shown as text, not passed on: whoever wrote the input need not be somebody whose
//! scripts the reader of the output should run. It is no sanitizer, though: link targets stay as they are.

use pulldown_cmark::{Event, Options, Parser, html};
use wasmqtt_guest::{Context, Error, Output, task};

task!(run);

fn run(_ctx: &Context, input: String) -> Result<Output, Error> {
    Ok(Output::new(render(&input), "text/html; charset=utf-8"))
}

fn render(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS;
    let events = Parser::new_ext(markdown, options).map(|event| match event {
        Event::Html(raw) | Event::InlineHtml(raw) => Event::Text(raw),
        event => event,
    });
    let mut page = String::with_capacity(markdown.len() * 3 / 2);
    html::push_html(&mut page, events);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_renders_as_expected() {
        assert_eq!(
            render(include_str!("../input.md")),
            include_str!("../expected.html")
        );
    }

    #[test]
    fn raw_html_is_text() {
        assert_eq!(render("a <b>c</b>"), "<p>a &lt;b&gt;c&lt;/b&gt;</p>\n");
    }
}
