//! Everything wrong with one configuration, each problem with its place, rendered like rustc's.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Whether a problem keeps the configuration from running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It is said and the configuration runs.
    Warning,
}

/// One problem: what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub text: String,
    /// What to do, when the text does not say it.
    pub help: Option<String>,
    /// Where; `None` when it concerns the file as a whole.
    pub place: Option<Place>,
}

/// A place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The line and the marked bytes in it; `None` where the line may hold a secret.
    pub shown: Option<(String, Range<usize>)>,
}

/// All problems of one configuration, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        let position = |problem: &Problem| {
            problem
                .place
                .as_ref()
                .map_or((usize::MAX, 0), |place| (place.line, place.column))
        };
        list.sort_by_key(position);
        list.dedup();
        Self {
            file: file.to_owned(),
            list,
        }
    }

    /// A single error without a place.
    pub(super) fn whole_file(file: &str, text: String, help: Option<&str>) -> Self {
        let problem = Problem {
            severity: Severity::Error,
            text,
            help: help.map(str::to_owned),
            place: None,
        };
        Self::new(file, vec![problem])
    }

    /// The problems, in the order of the file.
    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// The file's name, as it is shown.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// How many are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list
            .iter()
            .filter(|problem| problem.severity == severity)
            .count()
    }

    /// Whether the configuration cannot run.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Without the warnings.
    #[must_use]
    pub fn errors_only(mut self) -> Self {
        self.list.retain(|problem| problem.severity == Severity::Error);
        self
    }

    /// One line for one problem: `hooklatch.toml:9:1: text`.
    pub fn line(&self, problem: &Problem) -> String {
        match &problem.place {
            Some(place) => format!("{}:{}:{}: {}", self.file, place.line, place.column, problem.text),
            None => format!("{}: {}", self.file, problem.text),
        }
    }

    /// Every problem with its source line, in colour when asked.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for problem in &self.list {
            out.push_str(&renderer.render(&[self.group(problem)]));
            out.push_str("\n\n");
        }
        out
    }

    /// `2 errors, 1 warning in hooklatch.toml`.
    pub fn summary(&self) -> String {
        let word = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            _ => format!("{count} {word}s"),
        };
        format!(
            "{}, {} in {}",
            word(self.count(Severity::Error), "error"),
            word(self.count(Severity::Warning), "warning"),
            self.file
        )
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let group = Group::with_title(level.primary_title(&problem.text));
        let group = match &problem.place {
            None => group.element(Origin::path(&self.file)),
            Some(Place {
                line,
                column,
                shown: None,
            }) => group.element(Origin::path(&self.file).line(*line).char_column(*column)),
            Some(Place {
                line,
                shown: Some((text, marked)),
                ..
            }) => group.element(
                Snippet::source(text)
                    .line_start(*line)
                    .path(&self.file)
                    .annotation(AnnotationKind::Primary.span(marked.clone())),
            ),
        };
        match &problem.help {
            Some(help) => group.element(Level::HELP.message(help)),
            None => group,
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))?;
        f.write_str(&self.summary())
    }
}

impl std::error::Error for Problems {}
