-- PostgreSQL's image makes Prefect's database; this is the lake's catalog.
CREATE DATABASE lake;
