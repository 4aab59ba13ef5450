"""Connections that are reset in the moment in which we write to them."""

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from stream_app.adapters.kafka_clients import aio_client_options
from stream_app.settings import KafkaSettings


def test_a_write_to_a_connection_that_has_just_gone_says_so(kafka: Any) -> None:
    """aiokafka tries again after this error; after uvloop's own it never reads another click."""
    settings = KafkaSettings(bootstrap_servers=kafka.bootstrap_servers)

    async def write_when_gone() -> None:
        loop = asyncio.get_running_loop()
        client = AIOKafkaClient(**aio_client_options(settings))
        await client.bootstrap()
        try:
            assert await client.ready(client.get_random_node())
            (connection,) = client._conns.values()
            written = loop.create_future()

            def write() -> None:
                try:
                    connection.send(MetadataRequest([])).close()
                except RuntimeError as error:  # aiokafka's errors are such too
                    written.set_exception(error)
                else:
                    written.set_result(None)

            connection._writer.transport.abort()
            loop.call_soon(write)  # after the connection is lost, before aiokafka is told
            await written
        finally:
            await client.close()

    with pytest.raises(KafkaConnectionError, match="connection broken"):
        uvloop.run(write_when_gone())
