//! Every integration: which files it has and where the other program looks for them. A new one is an entry here, and its
//! files and README in `integrations/`.

use super::{
    place::{Base, Root, System::*},
    quote::Quote,
};

/// What puts this program behind another one.
pub struct Integration {
    /// Word on the command line.
    pub name: &'static str,
    /// What the other program has then, in a line.
    pub adds: &'static str,
    /// Places for the files; those of other systems are passed over.
    pub roots: &'static [Root],
    /// The files; `@script@` in one of them is the path of the first.
    pub files: &'static [Template],
    /// What the user does then, in a line.
    pub then: &'static str,
}

/// A file of an integration.
pub struct Template {
    /// Path below a root.
    pub path: &'static str,
    pub text: &'static str,
    /// How paths are quoted in it.
    pub quote: Quote,
    pub is_executable: bool,
    /// What to add to a file of the user's that has this name already; `None` if the name is this program's own.
    pub to_add: Option<&'static str>,
}

const fn file(path: &'static str, text: &'static str, quote: Quote) -> Template {
    Template { path, text, quote, is_executable: false, to_add: None }
}

const fn script(path: &'static str, text: &'static str, quote: Quote) -> Template {
    Template { path, text, quote, is_executable: true, to_add: None }
}

const fn shared(
    path: &'static str,
    text: &'static str,
    to_add: &'static str,
    quote: Quote,
) -> Template {
    Template { path, text, quote, is_executable: false, to_add: Some(to_add) }
}

const fn root(system: super::place::System, base: Base, path: &'static str) -> Root {
    Root { system, base, path }
}

macro_rules! text {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/integrations/", $path))
    };
}

const RUNNER: &str = text!("common/cupscale_program.py");
const MENU: &str = text!("file-managers/cupscale.sh");

/// All integrations, as `--list` shows them.
pub const INTEGRATIONS: &[Integration] = &[
    Integration {
        name: "gimp",
        adds: "GIMP 3: Filters → Enhance → Cupscale…",
        roots: &[
            root(Linux, Base::Config, "GIMP/3.*"),
            root(Linux, Base::Flatpak("org.gimp.GIMP"), "config/GIMP/3.*"),
            root(Mac, Base::Support, "GIMP/3.*"),
            root(Windows, Base::Roaming, "GIMP/3.*"),
        ],
        files: &[
            script("plug-ins/cupscale/cupscale.py", text!("gimp/cupscale.py"), Quote::Code),
            file(
                "plug-ins/cupscale/cupscale_dialog.py",
                text!("gimp/cupscale_dialog.py"),
                Quote::Code,
            ),
            file("plug-ins/cupscale/cupscale_program.py", RUNNER, Quote::Code),
        ],
        then: "start GIMP again",
    },
    Integration {
        name: "gimp2",
        adds: "GIMP 2.10 on Linux: Filters → Enhance → Cupscale…",
        roots: &[root(Linux, Base::Config, "GIMP/2.10")],
        files: &[
            script("plug-ins/cupscale/cupscale", text!("gimp2/cupscale"), Quote::Code),
            file("plug-ins/cupscale/cupscale_program.py", RUNNER, Quote::Code),
            file("scripts/cupscale.scm", text!("gimp2/cupscale.scm"), Quote::Code),
        ],
        then: "start GIMP again; it needs python3",
    },
    Integration {
        name: "darktable",
        adds: "darktable: a module in the lighttable, and an export storage",
        roots: &[
            root(Linux, Base::Config, "darktable"),
            root(Mac, Base::DotConfig, "darktable"),
            root(Windows, Base::Local, "darktable"),
        ],
        files: &[
            file("lua/cupscale.lua", text!("darktable/cupscale.lua"), Quote::Code),
            shared("luarc", text!("darktable/luarc"), "require \"cupscale\"", Quote::Code),
        ],
        then: "start darktable again",
    },
    Integration {
        name: "krita",
        adds: "Krita: Tools → Scripts → Cupscale…",
        roots: &[
            root(Linux, Base::Data, "krita"),
            root(Linux, Base::Flatpak("org.kde.krita"), "data/krita"),
            root(Mac, Base::Support, "krita"),
            root(Windows, Base::Roaming, "krita"),
        ],
        files: &[
            file("pykrita/cupscale.desktop", text!("krita/cupscale.desktop"), Quote::Desktop),
            file("pykrita/cupscale/__init__.py", text!("krita/cupscale/__init__.py"), Quote::Code),
            file("pykrita/cupscale/dialog.py", text!("krita/cupscale/dialog.py"), Quote::Code),
            file("pykrita/cupscale/cupscale_program.py", RUNNER, Quote::Code),
        ],
        then: "start Krita again, and switch Cupscale on in Settings → Configure Krita → Python Plugin Manager",
    },
    Integration {
        name: "imagemagick",
        adds: "ImageMagick 6 and 7: cupscale:photo.jpg reads a picture four times as large",
        roots: &[
            root(Linux, Base::Config, "ImageMagick"),
            root(Mac, Base::DotConfig, "ImageMagick"),
            root(Windows, Base::Local, "ImageMagick"),
        ],
        files: &[shared(
            "delegates.xml",
            text!("imagemagick/delegates.xml"),
            "<delegate decode=\"cupscale\" command=\"cupscale-fast --quiet --scale 4 --format png -o &quot;%o&quot; &quot;%i&quot;\"/>",
            Quote::Delegate,
        )],
        then: "magick cupscale:photo.jpg big.png",
    },
    Integration {
        name: "nautilus",
        adds: "GNOME's files: Scripts → Enlarge with Cupscale",
        roots: &[root(Linux, Base::Data, "nautilus/scripts")],
        files: &[script("Enlarge with Cupscale", MENU, Quote::Shell)],
        then: "right-click pictures",
    },
    Integration {
        name: "nemo",
        adds: "Cinnamon's files: Scripts → Enlarge with Cupscale",
        roots: &[root(Linux, Base::Data, "nemo/scripts")],
        files: &[script("Enlarge with Cupscale", MENU, Quote::Shell)],
        then: "right-click pictures",
    },
    Integration {
        name: "caja",
        adds: "MATE's files: Scripts → Enlarge with Cupscale",
        roots: &[root(Linux, Base::Config, "caja/scripts")],
        files: &[script("Enlarge with Cupscale", MENU, Quote::Shell)],
        then: "right-click pictures",
    },
    Integration {
        name: "dolphin",
        adds: "KDE's files: Cupscale → Enlarge 2 ×, 4 ×",
        roots: &[root(Linux, Base::Data, "")],
        files: &[
            script("cupscale/dolphin.sh", MENU, Quote::Shell),
            script(
                "kio/servicemenus/cupscale.desktop",
                text!("file-managers/dolphin.desktop"),
                Quote::Desktop,
            ),
        ],
        then: "right-click pictures",
    },
    Integration {
        name: "thunar",
        adds: "Xfce's files: Send To → Cupscale",
        roots: &[root(Linux, Base::Data, "")],
        files: &[
            script("cupscale/thunar.sh", MENU, Quote::Shell),
            file(
                "Thunar/sendto/cupscale.desktop",
                text!("file-managers/thunar.desktop"),
                Quote::Desktop,
            ),
        ],
        then: "right-click pictures",
    },
    Integration {
        name: "digikam",
        adds: "digiKam, gThumb and others: Open With → Other… → Cupscale",
        roots: &[root(Linux, Base::Data, "")],
        files: &[
            script("cupscale/open-with.sh", MENU, Quote::Shell),
            file(
                "applications/cupscale-fast.desktop",
                text!("file-managers/open-with.desktop"),
                Quote::Desktop,
            ),
        ],
        then: "right-click pictures",
    },
    Integration {
        name: "finder",
        adds: "macOS: Quick Actions → Enlarge with Cupscale",
        roots: &[root(Mac, Base::Services, "")],
        files: &[
            file(
                "Cupscale.workflow/Contents/Info.plist",
                text!("file-managers/finder-Info.plist"),
                Quote::ShellInXml,
            ),
            file(
                "Cupscale.workflow/Contents/document.wflow",
                text!("file-managers/finder-document.wflow"),
                Quote::ShellInXml,
            ),
        ],
        then: "right-click pictures",
    },
    Integration {
        name: "explorer",
        adds: "Windows: Send to → Cupscale",
        roots: &[root(Windows, Base::Roaming, "Microsoft/Windows/SendTo")],
        files: &[file("Cupscale.cmd", text!("file-managers/explorer.cmd"), Quote::Batch)],
        then: "right-click pictures",
    },
];

/// Words for the integrations on the command line.
pub fn names() -> Vec<&'static str> {
    INTEGRATIONS.iter().map(|integration| integration.name).collect()
}
