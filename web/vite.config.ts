import { defineConfig } from "vite";

// The page is served under /static/ from the package's folder; names hold a hash of the content, so that browsers may keep the files.
export default defineConfig({
  base: "/static/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../trainbus/plugins/web/static",
    emptyOutDir: true,
    assetsDir: "",
    assetsInlineLimit: 0,
    modulePreload: false,
    target: "es2022",
    rolldownOptions: { output: { entryFileNames: "app-[hash].js", chunkFileNames: "part-[hash].js", assetFileNames: "[name]-[hash][extname]" } },
  },
});
