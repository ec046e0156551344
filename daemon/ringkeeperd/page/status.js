// Fetches the page anew every few seconds and puts its <main> in place of the one that is shown.
// Without this script the page is as whole; it then reloads itself more seldom.
"use strict";

(() => {
    const EVERY = 5000;
    const PATIENCE = 4000;
    let timer = 0;
    let isAsking = false;

    const connection = document.getElementById("connection");

    // The time of the last answer, as the page shows it: it is Redis' and the daemon's, not ours.
    const shownTime = () => document.querySelector(".asof time").textContent.split(" ").pop();

    function say(what) {
        const text = what ? `As of ${shownTime()}; ${what}.` : "";
        // Only what is news: whoever listens to the page hears it once.
        if (connection.textContent !== text) connection.textContent = text;
        document.body.classList.toggle("stale", Boolean(what));
    }

    // Whoever selects a kid to copy it must not lose the selection.
    function isSelecting(main) {
        const selection = document.getSelection();
        return !selection.isCollapsed && main.contains(selection.anchorNode);
    }

    function replace(fresh) {
        const shown = document.querySelector("main");
        if (isSelecting(shown)) return;
        const main = document.adoptNode(fresh.querySelector("main"));
        for (const details of shown.querySelectorAll("details[id]")) {
            const same = main.querySelector(`#${CSS.escape(details.id)}`);
            if (same) same.open = details.open;
        }
        const focused = shown.contains(document.activeElement) ? document.activeElement.id : "";
        const [left, top] = [window.scrollX, window.scrollY];
        shown.replaceWith(main);
        if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
        window.scrollTo(left, top);
        document.querySelector(".asof").replaceWith(document.adoptNode(fresh.querySelector(".asof")));
        document.title = fresh.title;
    }

    async function look() {
        if (isAsking || document.hidden) return;
        isAsking = true;
        window.clearTimeout(timer);
        try {
            const answer = await fetch(window.location.href, {
                cache: "no-store",
                headers: { Accept: "text/html" },
                signal: AbortSignal.timeout(PATIENCE),
            });
            if (answer.ok) {
                replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
                say("");
            } else {
                say("the daemon does not answer as it should");
            }
        } catch {
            say("the daemon does not answer");
        }
        isAsking = false;
        timer = window.setTimeout(look, EVERY);
    }

    document.addEventListener("visibilitychange", look);
    timer = window.setTimeout(look, EVERY);
})();
