import { render } from "preact";
import { App } from "./app";
import { stream } from "./model";
import "./style.css";

const root = document.getElementById("app");
if (root) render(<App />, root);
stream.connect();
