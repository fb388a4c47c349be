import { render } from "preact";
import { App } from "./app";
import { keepLayout } from "./layout";
import { stream } from "./model";
import { drawings } from "./panel";
import { restWhileHidden } from "./resting";
import "./style.css";

const root = document.getElementById("app");
if (root) render(<App />, root);
stream.connect();
keepLayout();
restWhileHidden();

// For whoever wonders what the page is doing: trainbus.drawings in the browser's console.
Object.assign(window, { trainbus: { drawings } });
